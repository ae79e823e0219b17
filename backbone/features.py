"""The protocol between backbones and heads, and the base of the networks that have both."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class FeatureInfo(NamedTuple):
    """Shapes of the feature maps of a backbone, finest first."""

    channels: tuple[int, ...]
    """Channels of each map."""
    strides: tuple[int, ...]
    """Input pixels for each step on the map: H x W pixels become about H/stride x W/stride."""


@runtime_checkable
class Backbone(Protocol):
    """Anything that turns images into feature maps.

    Heads read channels and strides from ``feature_info`` and no names of layers, so any feature
    extractor behind this protocol works with any head.
    """

    feature_info: FeatureInfo

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of normalized images.

        Args:
            images: (B, 3, H, W) float, RGB, in the range that the backbone was trained on
                ([-1, 1] for MobileNet).

        Returns:
            One (B, channels, ~H/stride, ~W/stride) map for each entry of ``feature_info``.
        """
        ...


def require_features(backbone: nn.Module) -> FeatureInfo:
    """Return the ``feature_info`` of a backbone.

    Raises:
        TypeError: The module does not follow the ``Backbone`` protocol.
    """
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{type(backbone).__name__} has no feature_info: it is no Backbone")
    return backbone.feature_info


def normalize_pixels(
    images: Tensor, pixel_mean: float | Tensor, pixel_std: float | Tensor
) -> Tensor:
    """Return uint8 or float images as float, less the mean and divided by the deviation."""
    return (images.float() - pixel_mean) / pixel_std


class ImageNetwork(nn.Module):
    """Base of the networks: normalized pixels go to a backbone; a subclass adds the heads.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol.
        pixel_mean: Subtracted from the uint8 pixels before the backbone.
        pixel_std: Then divided by; 127.5 and 127.5 give [-1, 1].

    Raises:
        TypeError: backbone does not follow the protocol.
    """

    def __init__(
        self, backbone: nn.Module, pixel_mean: float = 127.5, pixel_std: float = 127.5
    ) -> None:
        super().__init__()
        self.backbone_info = require_features(backbone)
        self.backbone = backbone
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std

    def normalized(self, images: Tensor) -> Tensor:
        """Return what the backbone takes for images (B, 3, H, W) uint8 or float in [0, 255]."""
        return normalize_pixels(images, self.pixel_mean, self.pixel_std)
