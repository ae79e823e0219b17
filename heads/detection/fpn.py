"""Pyramids of maps on top of a backbone, as in TensorFlow's detectors."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...backbone.layers import ConvNormAct
from ...backbone.mobilenet import FeatureInfo, require_features


class FeaturePyramid(nn.Module):
    """A backbone with maps of equal width: coarse maps are added to the finer ones.

    Lin et al. 2017, "Feature Pyramid Networks", Section 3, in the form of TensorFlow's
    ssd_mobilenet_v1_fpn. At strides 8, 16 and 32 of MobileNet and with two coarser maps it is P3 to
    P7 of RetinaNet. Projections have a bias and nothing else, and that of the backbone's coarsest
    map is P5 as it is. The 3x3 convolutions that smooth the finer maps, and those at stride 2 that
    make the coarser ones, are normalized and activated.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol.
        channels: Channels of all maps.
        coarser_maps: Additional maps, each at half the size of the one before.
        norm_momentum: Share of a new batch in the running statistics, see ``MobileNetV1``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int = 256,
        coarser_maps: int = 2,
        norm_momentum: float = 0.03,
    ) -> None:
        super().__init__()
        features = require_features(backbone)
        finer = len(features.channels) - 1
        self.body = backbone
        self.projections = nn.ModuleList(nn.Conv2d(n, channels, 1) for n in features.channels)
        self.smoothing, self.coarser = (
            nn.ModuleList(
                ConvNormAct(channels, channels, 3, stride, norm_momentum=norm_momentum)
                for _ in range(count)
            )
            for stride, count in ((1, finer), (2, coarser_maps))
        )
        own = FeatureInfo((channels,) * (finer + 1), features.strides)
        self.feature_info = _with_coarser(own, coarser_maps)
        for name, parameter in self.named_parameters():
            if not name.startswith("body.") and parameter.ndim == 4:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the pyramid, finest first, for images as the backbone wants them."""
        maps = self.body(images)
        coarse = self.projections[-1](maps[-1])
        pyramid = [coarse]
        for index in reversed(range(len(self.smoothing))):
            raised = F.interpolate(coarse, size=maps[index].shape[-2:], mode="nearest")
            coarse = self.projections[index](maps[index]) + raised
            pyramid.insert(0, self.smoothing[index](coarse))
        for layer in self.coarser:
            pyramid.append(layer(pyramid[-1]))
        return tuple(pyramid)


class PoolingPyramid(nn.Module):
    """A backbone whose coarsest map is pooled to half its size again and again.

    Jin et al. 2018, "Pooling Pyramid Network for Object Detection" (arXiv 1807.03284), Section 3,
    without the 1x1 convolution of Figure 1, as in TensorFlow's ssd_mobilenet_v1_ppn.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol.
        coarser_maps: Additional maps, each at half the size of the one before.
    """

    def __init__(self, backbone: nn.Module, coarser_maps: int = 5) -> None:
        super().__init__()
        self.body = backbone
        self.coarser_maps = coarser_maps
        self.feature_info = _with_coarser(require_features(backbone), coarser_maps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, finest first, for images as the backbone wants them."""
        maps = list(self.body(images))
        for _ in range(self.coarser_maps):
            maps.append(F.max_pool2d(maps[-1], 2, ceil_mode=True))
        return tuple(maps)


def _with_coarser(features: FeatureInfo, count: int) -> FeatureInfo:
    """Return the shapes of maps that are followed by coarser ones of as many channels."""
    coarser = tuple(features.strides[-1] * 2 ** (i + 1) for i in range(count))
    return FeatureInfo(
        features.channels + features.channels[-1:] * count, tuple(features.strides) + coarser
    )
