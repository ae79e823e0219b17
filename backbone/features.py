"""How a backbone hands its features to a head."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class FeatureInfo(NamedTuple):
    """What the maps of a backbone are, finest first."""

    channels: tuple[int, ...]
    """Channels of each map."""
    strides: tuple[int, ...]
    """Input pixels for each step on the map: H x W pixels become about H/stride x W/stride."""


@runtime_checkable
class Backbone(Protocol):
    """Anything that turns images into feature maps.

    Heads ask ``feature_info`` for channels and strides and never for names of layers, so any
    feature extractor behind this protocol fits under any head.
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
