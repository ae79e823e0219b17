"""Face attributes on a backbone's last map (Howard et al. 2017, Section 4.5)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...backbone.mobilenet import ClassRows, ImageNetwork

LANDMARKS = 5


class AttributeOutput(NamedTuple):
    """The network's output for B faces."""

    logits: Tensor
    """(B, A) float, one for each attribute; the sigmoid is its probability."""
    landmarks: Tensor | None
    """(B, 5, 2) float, x and y as shares of the crop's width and height: eyes, nose, corners of the
    mouth, as seen in the image left before right. None without landmarks in the head."""


class AttributeHead(nn.Module):
    """Global average pooling, dropout and linear layers.

    Args:
        in_channels: Channels of the map.
        num_attributes: A.
        dropout: Probability of dropping a pooled feature while training.
        landmarks: Whether to predict the five landmarks, too.

    Raises:
        ValueError: num_attributes is not positive, or dropout not in [0, 1).
    """

    def __init__(
        self, in_channels: int, num_attributes: int, dropout: float = 0.0, landmarks: bool = False
    ) -> None:
        super().__init__()
        if num_attributes < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"num_attributes={num_attributes} must be at least 1, dropout={dropout} in [0, 1)"
            )
        self.dropout = nn.Dropout(dropout)
        self.attributes = nn.Linear(in_channels, num_attributes)
        self.points = nn.Linear(in_channels, 2 * LANDMARKS) if landmarks else None
        if self.points is not None:
            # All points begin near the middle of the crop, so that their first errors are small.
            nn.init.normal_(self.points.weight, std=1e-3)
            nn.init.constant_(self.points.bias, 0.5)

    def forward(self, features: Tensor) -> AttributeOutput:
        """Return the output for a map (B, in_channels, H, W)."""
        pooled = self.dropout(features.mean(dim=(2, 3)))
        points = None if self.points is None else self.points(pooled).unflatten(1, (LANDMARKS, 2))
        return AttributeOutput(self.attributes(pooled), points)


class AttributeNetwork(ImageNetwork):
    """A backbone with an ``AttributeHead``.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        num_classes: Attributes of the data; the command line links it from there.
        dropout: As for the head.
        landmarks: As for the head.
        **pixels: ``pixel_mean`` and ``pixel_std``, see ``ImageNetwork``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        dropout: float = 0.0,
        landmarks: bool = False,
        **pixels: float,
    ) -> None:
        super().__init__(backbone, **pixels)
        self.head = AttributeHead(self.backbone_info.channels[-1], num_classes, dropout, landmarks)
        self.num_classes = num_classes

    def class_layers(self) -> dict[str, ClassRows]:
        """See ``ImageNetwork``."""
        return {"head.attributes": ClassRows()}

    def forward(self, images: Tensor) -> AttributeOutput:
        """Return the output for images (B, 3, H, W) uint8 or float in [0, 255], RGB."""
        return self.head(self.backbone(self.normalized(images))[-1])


def landmarks_in_pixels(landmarks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Convert shares of a crop (B, 5, 2) to pixels; (0, 0) is the center of the first."""
    height, width = size_hw
    return landmarks * torch.tensor([width, height], device=landmarks.device) - 0.5
