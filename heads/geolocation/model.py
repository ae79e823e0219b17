"""The geolocation network: images to logits over the cells of one or several partitions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...backbone.mobilenet import ClassRows, ImageNetwork


class CellClassifier(ImageNetwork):
    """PlaNet with any backbone (Howard et al. 2017, Section 4.4): pooling and a linear layer.

    With MobileNet 1.0 and 9,800 cells it has 13.3 M parameters, 10.0 M of them in the last layer,
    and 0.58 G mult-adds at 224 px; the paper has 13 M, 10 M and 0.58 G.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        num_classes: Cells of the partition, or of several, coarse before fine; the command line
            links it from the data.
        dropout: Probability of dropping a pooled feature while training.
        **pixels: ``pixel_mean`` and ``pixel_std``, see ``ImageNetwork``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | Sequence[int],
        dropout: float = 0.0,
        **pixels: float,
    ) -> None:
        super().__init__(backbone, **pixels)
        sizes = (num_classes,) if isinstance(num_classes, int) else tuple(num_classes)
        if not sizes or min(sizes) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"num_classes={num_classes} must be at least 1 and dropout={dropout} in [0, 1)"
            )
        self.sizes = sizes
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.backbone_info.channels[-1], sum(sizes))

    def class_layers(self) -> dict[str, ClassRows]:
        """See ``ImageNetwork``."""
        return {"classifier": ClassRows()}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (B, C) of each partition, for images (B, 3, H, W) uint8 or float."""
        logits = self.classifier(
            self.dropout(self.backbone(self.normalized(images))[-1].mean(dim=(2, 3)))
        )
        return torch.split(logits, list(self.sizes), dim=1)
