"""The network of face embeddings (Howard et al. 2017, Section 4.7): a face to a unit vector.

The similarity of two faces is the cosine of their embeddings.
"""

import math
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...backbone.mobilenet import ImageNetwork

Pooling = Literal["mean", "depthwise"]
"""``mean``: global average pooling. ``depthwise``: a learned weight for each place and channel
("global depthwise convolution", Chen et al. 2018, "MobileFaceNets", Section 3.1)."""


class EmbeddingHead(nn.Module):
    """Global pooling, dropout and a linear layer.

    Args:
        in_channels: Channels of the map.
        dimension: D of the embeddings.
        pooling: How the map becomes one vector.
        map_hw: Height and width of the map; only ``depthwise`` needs it, and then takes no other.
        dropout: Probability of dropping a pooled feature while training.
        norm: Batch normalization of the embedding before its length is taken, as margin losses
            want it (Deng et al. 2019, "ArcFace", Section 3.1).

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        dimension: int = 128,
        pooling: Pooling = "mean",
        map_hw: tuple[int, int] = (5, 5),
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if dimension < 1 or not 0 <= dropout < 1 or pooling not in ("mean", "depthwise"):
            raise ValueError(
                f"dimension={dimension} must be at least 1, dropout={dropout} in [0, 1) and "
                f"pooling={pooling!r} 'mean' or 'depthwise'"
            )
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(1)
        if pooling == "depthwise":
            self.pool = nn.Sequential(
                nn.Conv2d(in_channels, in_channels, map_hw, groups=in_channels, bias=False),
                nn.BatchNorm2d(in_channels, momentum=0.03),
            )
            # It starts as the average.
            nn.init.constant_(self.pool[0].weight, 1 / math.prod(map_hw))  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(in_channels, dimension, bias=not norm)
        nn.init.normal_(self.embedding.weight, std=in_channels**-0.5)
        self.norm: nn.Module = nn.BatchNorm1d(dimension, momentum=0.03) if norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings (B, D) float32, of unit length, of a map (B, in_channels, H, W)."""
        pooled = self.pool(features).flatten(1)
        return F.normalize(self.norm(self.embedding(self.dropout(pooled))).float(), dim=1)


class FaceNetwork(ImageNetwork):
    """A backbone with an ``EmbeddingHead``.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        dimension: D, that of the teacher.
        pooling: As for the head.
        size: Side of the faces in px; only ``depthwise`` needs it, and then takes no other.
        dropout: As for the head.
        norm: As for the head.
        **pixels: ``pixel_mean`` and ``pixel_std``, see ``ImageNetwork``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dimension: int = 128,
        pooling: Pooling = "mean",
        size: int = 160,
        dropout: float = 0.0,
        norm: bool = False,
        **pixels: float,
    ) -> None:
        super().__init__(backbone, **pixels)
        side = -(-size // self.backbone_info.strides[-1])
        channels = self.backbone_info.channels[-1]
        self.head = EmbeddingHead(channels, dimension, pooling, (side, side), dropout, norm)
        self.dimension = dimension
        self.register_load_state_dict_pre_hook(_move_into_head)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) float32, of unit length, of images (B, 3, H, W), RGB.

        They are uint8 or float in [0, 255], aligned to ArcFace's template
        (``datasets.faces.alignment``).
        """
        return self.head(self.backbone(self.normalized(images))[-1])


def _move_into_head(
    network: nn.Module,  # noqa: ARG001
    state_dict: dict[str, Any],
    prefix: str,
    *rest: Any,  # noqa: ARG001
) -> None:
    """Rename ``pool``, ``embedding``, ... of checkpoints from before there was a head."""
    for part in ("pool", "embedding", "norm"):
        old = f"{prefix}{part}."
        for name in [name for name in state_dict if name.startswith(old)]:
            state_dict[f"{prefix}head.{name.removeprefix(prefix)}"] = state_dict.pop(name)
