"""The network: images to logits over the cells of one or several partitions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...backbone.features import Backbone


class CellClassifier(nn.Module):
    """PlaNet with any backbone (Howard et al. 2017, Section 4.4): pooling and a linear layer.

    With MobileNet 1.0 and 9,800 cells it has 13.3 M parameters, 10.0 M of them in the last layer,
    and 0.58 G mult-adds at 224 px; the paper has 13 M, 10 M and 0.58 G.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        num_classes: Cells of the partition, or of several, coarse before fine; the command line
            links it from the data.
        dropout: Probability of dropping a pooled feature while training.
        pixel_mean: Taken from the uint8 pixels before the backbone.
        pixel_std: Then divided by; 127.5 and 127.5 give [-1, 1].

    Raises:
        TypeError: backbone does not follow the protocol.
        ValueError: a number of cells is not positive, or dropout not in [0, 1).
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | Sequence[int],
        dropout: float = 0.0,
        pixel_mean: float = 127.5,
        pixel_std: float = 127.5,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise TypeError(f"{type(backbone).__name__} has no feature_info: it is no Backbone")
        sizes = (num_classes,) if isinstance(num_classes, int) else tuple(num_classes)
        if not sizes or min(sizes) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"num_classes={num_classes} must be at least 1 and dropout={dropout} in [0, 1)"
            )
        self.backbone = backbone
        self.sizes = sizes
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.feature_info.channels[-1], sum(sizes))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (B, C) of each partition, coarse before fine.

        Args:
            images: (B, 3, H, W) uint8 or float in [0, 255], RGB.
        """
        features = self.backbone((images.float() - self.pixel_mean) / self.pixel_std)[-1]
        logits = self.classifier(self.dropout(features.mean(dim=(2, 3))))
        return torch.split(logits, list(self.sizes), dim=1)
