"""The network of the classification job: uint8 images to logits (Howard et al. 2017, Table 1)."""

from typing import Any, cast

from torch import Tensor, nn

from ...backbone.mobilenet import (
    Backbone,
    ClassRows,
    ImageClassifier,
    normalize_pixels,
    require_features,
)


class Classifier(ImageClassifier):
    """``ImageClassifier`` that takes images as the data modules hand them on.

    It has the entries of ``ImageClassifier`` in its state dict, so that weights fit both.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        num_classes: Classes of the data; the command line links it from there.
        pixel_mean: Taken from the uint8 pixels before the backbone.
        pixel_std: Then divided by; 127.5 and 127.5 give [-1, 1].
        **options: See ``ImageClassifier``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        pixel_mean: float = 127.5,
        pixel_std: float = 127.5,
        **options: Any,
    ) -> None:
        require_features(backbone)
        super().__init__(cast(Backbone, backbone), num_classes, **options)
        self.num_classes = num_classes
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std

    def class_layers(self) -> dict[str, ClassRows]:
        """See ``ImageNetwork``."""
        return {"classifier": ClassRows()}

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W) uint8 or float, RGB."""
        return super().forward(normalize_pixels(images, self.pixel_mean, self.pixel_std))
