"""The network of the classification job: uint8 pictures to logits (Howard et al. 2017, Table 1)."""

from torch import Tensor, nn

from ...backbone.features import Backbone
from ...backbone.mobilenet import ImageClassifier


class Classifier(ImageClassifier):
    """``ImageClassifier`` that takes pictures as the data modules hand them on.

    It has the entries of ``ImageClassifier`` in its state dict, so that weights fit both.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        num_classes: Classes of the data; the command line links it from there.
        dropout: Probability of dropping a pooled feature while training.
        head_channels: Channels of one more 1x1 convolution before the pooling, see
            ``ImageClassifier``; None leaves it out, as the paper does.
        pixel_mean: Taken from the uint8 pixels before the backbone.
        pixel_std: Then divided by; 127.5 and 127.5 give [-1, 1].
        norm_eps: Epsilon of the normalisation of that convolution.
        norm_momentum: Momentum of its running statistics in PyTorch's sense.

    Raises:
        TypeError: backbone does not follow the protocol.
        ValueError: num_classes is not positive, or dropout not in [0, 1).
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        dropout: float = 0.0,
        head_channels: int | None = None,
        pixel_mean: float = 127.5,
        pixel_std: float = 127.5,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
    ) -> None:
        if not isinstance(backbone, Backbone):
            raise TypeError(f"{type(backbone).__name__} has no feature_info: it is no Backbone")
        if num_classes < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"num_classes={num_classes} must be at least 1 and dropout={dropout} in [0, 1)"
            )
        super().__init__(backbone, num_classes, dropout, head_channels, norm_eps, norm_momentum)
        self.num_classes = num_classes
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes).

        Args:
            images: (B, 3, H, W) uint8 or float in [0, 255], RGB.
        """
        return super().forward((images.float() - self.pixel_mean) / self.pixel_std)
