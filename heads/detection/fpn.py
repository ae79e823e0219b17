"""A feature pyramid on top of a backbone (Lin et al. 2017, "Feature Pyramid Networks")."""

from functools import partial

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ...backbone.layers import ConvNormAct
from ...backbone.mobilenet import FeatureInfo, require_features

# As in TensorFlow's SSD with a feature pyramid, but for the momentum: see ``MobileNetV1``.
NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)


class FeaturePyramid(nn.Module):
    """A backbone with maps of equal width: coarse maps are added to the finer ones.

    At strides 8, 16 and 32 of MobileNet and with two coarser maps it is P3 to P7 of RetinaNet.
    Coarser maps are 3x3 convolutions at stride 2, normalized and activated, as in TensorFlow.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol.
        channels: Channels of all maps.
        coarser_maps: Additional maps, each at half the size of the one before.
    """

    def __init__(self, backbone: nn.Module, channels: int = 256, coarser_maps: int = 2) -> None:
        super().__init__()
        features = require_features(backbone)
        self.body = backbone
        self.pyramid = FeaturePyramidNetwork(
            list(features.channels),
            channels,
            extra_blocks=CoarserMaps(channels, coarser_maps),
            norm_layer=NORM,
        )
        strides = list(features.strides)
        for _ in range(coarser_maps):
            strides.append(strides[-1] * 2)
        self.feature_info = FeatureInfo((channels,) * len(strides), tuple(strides))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the pyramid, finest first, for images as the backbone wants them."""
        maps = self.body(images)
        return tuple(self.pyramid({str(i): map_ for i, map_ in enumerate(maps)}).values())


class CoarserMaps(ExtraFPNBlock):
    """The maps above the backbone's coarsest one."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNormAct(channels, channels, 3, 2) for _ in range(count))

    def forward(
        self,
        results: list[Tensor],
        x: list[Tensor],  # noqa: ARG002
        names: list[str],
    ) -> tuple[list[Tensor], list[str]]:
        """Return maps and names of the pyramid with those of this block appended."""
        for layer in self.layers:
            results.append(layer(results[-1]))
        return results, [str(i) for i in range(len(names) + len(self.layers))]
