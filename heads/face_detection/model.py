"""RetinaFace: faces with five landmarks in one pass (Deng et al. 2019, arXiv 1905.00641).

It is an ``SSD`` with parts of its own. On MobileNet of width 0.25, at 640 px:

    backbone at strides 8, 16, 32    80x80x64, 40x40x128, 20x20x256
    feature pyramid                  64 channels each
    context module (SSH)             64 channels each
    1x1 convolutions                 class, box and landmarks of 2 square anchors a cell

The paper has a feature pyramid of five maps, with deformable convolutions, and three anchors a cell
(Section 4.2); the authors' MobileNet and the public one built after it have the above.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...backbone.layers import Activation, ConvNormAct
from ...backbone.mobilenet import FeatureInfo, require_features
from ...datasets.images import MEAN_RGB
from ...datasets.types import Detections
from ..detection.boxes import AnchorGrid, PostProcess, SizeHW, SSDOutput, take_rows
from ..detection.losses import AnchorLoss
from ..detection.ssd import SSD, MapPredictor, Predictors, as_rows
from .losses import FaceLoss, decode_landmarks

LANDMARKS = 5
STRIDES = (8, 16, 32)
ANCHOR_SIZES_PX = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
# PyTorch's own; the heads of this package else have TensorFlow's.
_NORM: dict[str, Any] = {"norm_eps": 1e-5, "norm_momentum": 0.1}


class ContextModule(nn.Module):
    """Three fields of view of one map, concatenated (Najibi et al. 2017, SSH, Section 3.3).

    Fields of 3x3, 5x5 and 7x7 cells of 3x3 convolutions, with a half, a quarter and a quarter of
    the channels; the larger two have their first convolution in common.

    Args:
        channels: Channels of the map and of the result, a multiple of 4.
        activation: Activation within a branch; after the concatenation it is ReLU.
    """

    def __init__(self, channels: int, activation: Activation = "leaky_relu") -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}")
        quarter = channels // 4
        self.field3 = ConvNormAct(channels, channels // 2, 3, activation=None, **_NORM)
        self.shared = ConvNormAct(channels, quarter, 3, activation=activation, **_NORM)
        self.field5 = ConvNormAct(quarter, quarter, 3, activation=None, **_NORM)
        self.field7 = nn.Sequential(
            ConvNormAct(quarter, quarter, 3, activation=activation, **_NORM),
            ConvNormAct(quarter, quarter, 3, activation=None, **_NORM),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, channels, H, W) of a map (B, channels, H, W)."""
        shared = self.shared(features)
        fields = [self.field3(features), self.field5(shared), self.field7(shared)]
        return F.relu(torch.cat(fields, dim=1))


class ContextPyramid(nn.Module):
    """A backbone with maps of equal width that see coarser maps and their surroundings.

    Unlike in ``FeaturePyramid`` a map is merged by its 3x3 convolution before it goes to the next
    finer one, and the coarsest has no such convolution.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol.
        channels: Channels of all maps, a multiple of 4.
        activation: Activation of all convolutions with one.
    """

    def __init__(
        self, backbone: nn.Module, channels: int = 64, activation: Activation = "leaky_relu"
    ) -> None:
        super().__init__()
        features = require_features(backbone)
        self.body = backbone
        options: dict[str, Any] = {"activation": activation, **_NORM}
        self.lateral = nn.ModuleList(
            ConvNormAct(width, channels, 1, **options) for width in features.channels
        )
        self.merge = nn.ModuleList(
            ConvNormAct(channels, channels, 3, **options) for _ in features.channels[1:]
        )
        self.context = nn.ModuleList(ContextModule(channels, activation) for _ in features.channels)
        self.feature_info = FeatureInfo((channels,) * len(features.strides), features.strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, finest first, for images as the backbone wants them."""
        maps = [layer(map_) for layer, map_ in zip(self.lateral, self.body(images), strict=True)]
        for index in reversed(range(len(maps) - 1)):
            coarser = F.interpolate(maps[index + 1], size=maps[index].shape[-2:], mode="nearest")
            maps[index] = self.merge[index](maps[index] + coarser)
        return tuple(module(map_) for module, map_ in zip(self.context, maps, strict=True))


class SquareAnchors(AnchorGrid):
    """Square anchors in pixels; cell (i, j) of a map lies around ((j, i) + 0.5) times its stride.

    Unlike the other grids they do not move where a stride does not divide the image.

    Args:
        strides: Input pixels for each step of each map, finest first.
        sizes_px: Sides of the anchors of each map.
    """

    def __init__(
        self,
        strides: Sequence[int] = STRIDES,
        sizes_px: Sequence[Sequence[float]] = ANCHOR_SIZES_PX,
    ) -> None:
        if len(strides) != len(sizes_px):
            raise ValueError(f"{len(strides)} strides and anchors of {len(sizes_px)} maps")
        super().__init__([len(sizes) for sizes in sizes_px])
        self.strides = tuple(strides)
        self.sizes_px = [tuple(sizes) for sizes in sizes_px]

    def cells(
        self,
        size_hw: SizeHW,
        map_sizes_hw: Sequence[SizeHW],  # noqa: ARG002
    ) -> Sequence[tuple[float, float]]:
        """See ``AnchorGrid``."""
        return [(size_hw[0] / stride, size_hw[1] / stride) for stride in self.strides]

    def shapes(self, size_hw: SizeHW) -> list[list[tuple[float, float]]]:
        """See ``AnchorGrid``."""
        height, width = size_hw
        return [[(size / height, size / width) for size in sizes] for sizes in self.sizes_px]


class LandmarkPredictor(MapPredictor):
    """Box offsets, class logits and landmark offsets of one map, by one 1x1 convolution each."""

    def __init__(self, in_channels: int, boxes_per_cell: int, num_columns: int) -> None:
        super().__init__(in_channels, boxes_per_cell, num_columns)
        self.landmarks = nn.Conv2d(in_channels, boxes_per_cell * LANDMARKS * 2, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return what ``MapPredictor`` does and landmark offsets (B, H*W*boxes, 5, 2)."""
        points = as_rows(self.landmarks(features), LANDMARKS * 2).unflatten(2, (LANDMARKS, 2))
        return *super().forward(features), points


class LandmarkPredictors(Predictors):
    """A ``LandmarkPredictor`` for each map."""

    kind = LandmarkPredictor


class RetinaFace(SSD):
    """A detector of faces and their five landmarks on any backbone.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol, with one map for each
            entry of ``strides``.
        num_classes: Classes of the data, background not counted; 1 for faces.
        channels: Channels of the feature pyramid, a multiple of 4.
        activation: Activation of pyramid and context modules.
        anchor_sizes_px: Sides of the square anchors of each map.
        loss: None takes ``FaceLoss()``.
        postprocess: None takes the limits of the public network: scores above 0.02, IoU of up to
            0.4, 750 faces.
        pixel_mean: See ``ImageNetwork``; by default ImageNet's, as in the public network.
        pixel_std: See ``ImageNetwork``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 1,
        channels: int = 64,
        activation: Activation = "leaky_relu",
        anchor_sizes_px: Sequence[Sequence[float]] = ANCHOR_SIZES_PX,
        loss: AnchorLoss | None = None,
        postprocess: PostProcess | None = None,
        pixel_mean: float | Sequence[float] = MEAN_RGB,
        pixel_std: float = 1.0,
    ) -> None:
        strides = require_features(backbone).strides
        super().__init__(
            ContextPyramid(backbone, channels, activation),
            num_classes,
            extra_channels=(),
            predictors=LandmarkPredictors,
            anchors=SquareAnchors(strides, anchor_sizes_px),
            loss=loss or FaceLoss(),
            postprocess=postprocess or PostProcess(0.02, 0.4, 750, 5000),
            pixel_mean=pixel_mean,  # type: ignore[arg-type]
            pixel_std=pixel_std,
        )

    def detect(self, output: SSDOutput, size_hw: tuple[int, int]) -> Detections:
        """Return the faces of a batch, in pixels of an input of ``size_hw``."""
        deltas, anchors = output.landmark_deltas, output.anchors
        assert deltas is not None
        boxes = self.box_coder.decode(output.box_deltas.float(), anchors)

        def landmarks(rows: Tensor) -> Tensor:
            return decode_landmarks(take_rows(deltas, rows).float(), anchors[rows], self.box_coder)

        return self.postprocess(boxes, self.scores(output), size_hw, landmarks)
