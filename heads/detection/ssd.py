"""SSD on a MobileNet (Liu et al. 2016; Howard et al. 2017, Section 4.6): the paper's own detector.

At 300 px and 90 classes it has 1,917 default boxes, 6.82 M parameters and 1.24 G mult-adds
(Table 13 of the MobileNet paper: 6.8 M and 1.2 B).

    backbone at stride 16   19x19x512    3 boxes a cell
    backbone at stride 32   10x10x1024   6
    extra 1                  5x5x512     6
    extra 2                  3x3x256     6
    extra 3                  2x2x256     6
    extra 4                  1x1x128     6
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...backbone.layers import ConvNormAct, DepthwiseSeparable, PaddedConv2d, Padding
from ...backbone.mobilenet import ClassRows, ImageNetwork
from ...datasets.types import Detections, DetectionTarget
from .boxes import AnchorGrid, BoxCoder, DefaultBoxes, PostProcess, ScoreActivation, SSDOutput
from .losses import AnchorLoss, MultiBoxLoss

OBJECT_PRIOR = 0.01  # nearly every anchor is background


class MapPredictor(nn.Module):
    """Box offsets and class logits of one map, by one 1x1 convolution each."""

    def __init__(self, in_channels: int, boxes_per_cell: int, num_columns: int) -> None:
        super().__init__()
        self.num_columns = num_columns
        self.boxes = nn.Conv2d(in_channels, boxes_per_cell * 4, 1)
        self.classes = nn.Conv2d(in_channels, boxes_per_cell * num_columns, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return offsets (B, H*W*boxes, 4) and logits (B, H*W*boxes, columns) of (B, C, H, W)."""
        return as_rows(self.boxes(features), 4), as_rows(self.classes(features), self.num_columns)


class DepthwisePredictor(MapPredictor):
    """The same after a 3x3 depthwise convolution each (Sandler et al. 2018, Section 6.2)."""

    def __init__(self, in_channels: int, boxes_per_cell: int, num_columns: int) -> None:
        super().__init__(in_channels, boxes_per_cell, num_columns)
        self.boxes_depthwise = ConvNormAct(in_channels, in_channels, 3, groups=in_channels)
        self.classes_depthwise = ConvNormAct(in_channels, in_channels, 3, groups=in_channels)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """See ``MapPredictor``."""
        deltas = self.boxes(self.boxes_depthwise(features))
        logits = self.classes(self.classes_depthwise(features))
        return as_rows(deltas, 4), as_rows(logits, self.num_columns)


class Predictors(nn.ModuleList):
    """SSD's predictors, one 1x1 ``MapPredictor`` for each map; base of the other kinds.

    Args:
        channels: Channels of each map.
        boxes_per_cell: Anchors at each position of each map.
        num_columns: Classes and background.
    """

    kind: type[nn.Module] = MapPredictor
    init_std = 0.03
    """Standard deviation of fresh weights."""

    def __init__(
        self, channels: Sequence[int], boxes_per_cell: Sequence[int], num_columns: int
    ) -> None:
        super().__init__(
            self.kind(width, boxes, num_columns)
            for width, boxes in zip(channels, boxes_per_cell, strict=True)
        )
        self.num_columns = num_columns

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return offsets (B, H*W*boxes, 4) and logits (B, H*W*boxes, columns) of each map.

        A detector with landmarks adds their offsets (B, H*W*boxes, 5, 2).
        """
        return [predict(map_) for predict, map_ in zip(self, maps, strict=True)]

    def class_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions that give the logits."""
        return [cast(MapPredictor, predictor).classes for predictor in self]

    def initialize(self, score_activation: ScoreActivation) -> None:
        """Draw fresh weights; by the biases an anchor is an object with probability 0.01.

        With ``softmax`` that is all classes together, with ``sigmoid`` each (Lin et al. 2017,
        Section 4.1).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=self.init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        prior = math.log((1 - OBJECT_PRIOR) / OBJECT_PRIOR)
        for layer in self.class_layers():
            columns = cast(Tensor, layer.bias).detach().view(-1, self.num_columns)
            if score_activation == "softmax":
                columns[:, 0] = prior + math.log(self.num_columns - 1)
            else:
                columns[:, 0], columns[:, 1:] = prior, -prior


class DepthwisePredictors(Predictors):
    """SSDLite's predictors, a ``DepthwisePredictor`` for each map (Sandler et al. 2018)."""

    kind = DepthwisePredictor


class SharedPredictors(Predictors):
    """One predictor for all maps of a pyramid (Lin et al. 2017, RetinaNet, Section 4).

    Two towers of 3x3 convolutions, one for boxes and one for classes, and a 3x3 convolution at the
    end of each. As in TensorFlow's SSD with a feature pyramid each map has batch normalization of
    its own, since the statistics of the maps differ, and the activation is ReLU6.

    Args:
        channels: Channels of each map, all the same.
        boxes_per_cell: Anchors at each position of each map, all the same.
        num_columns: Classes and background.
        depth: Convolutions of each tower.
        depthwise: Depthwise separable convolutions in the towers, about an eighth of the cost at
            256 channels.
        kernel_size: Of all convolutions; an odd number.
        shared_tower: One tower for boxes and classes, as in TensorFlow's pooling pyramid.
        norm_momentum: Share of a new batch in the running statistics, see ``MobileNetV1``.

    Raises:
        ValueError: The maps differ in channels or boxes.
    """

    init_std = 0.01

    def __init__(
        self,
        channels: Sequence[int],
        boxes_per_cell: Sequence[int],
        num_columns: int,
        depth: int = 4,
        depthwise: bool = False,
        kernel_size: int = 3,
        shared_tower: bool = False,
        norm_momentum: float = 0.03,
    ) -> None:
        if len(set(channels)) != 1 or len(set(boxes_per_cell)) != 1:
            raise ValueError(
                "a shared predictor needs maps of equal channels and boxes, got channels "
                f"{tuple(channels)} and boxes per cell {tuple(boxes_per_cell)}"
            )
        super().__init__([], [], num_columns)
        width, boxes, maps = channels[0], boxes_per_cell[0], len(channels)
        self.shared_tower = shared_tower
        self.box_tower, self.class_tower = (
            nn.ModuleList(
                SharedLayer(width, maps, depthwise, kernel_size, norm_momentum)
                for _ in range(layers)
            )
            for layers in (depth, 0 if shared_tower else depth)
        )
        self.boxes, self.classes = (
            nn.Conv2d(width, boxes * columns, kernel_size, padding=kernel_size // 2)
            for columns in (4, num_columns)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """See ``Predictors``."""
        predictions: list[tuple[Tensor, ...]] = []
        for index, features in enumerate(maps):
            boxes = classes = features
            for layer in self.box_tower:
                boxes = layer(boxes, index)
            if self.shared_tower:
                classes = boxes
            for layer in self.class_tower:
                classes = layer(classes, index)
            logits = as_rows(self.classes(classes), self.num_columns)
            predictions.append((as_rows(self.boxes(boxes), 4), logits))
        return predictions

    def class_layers(self) -> list[nn.Conv2d]:
        """Return the convolution that gives the logits."""
        return [self.classes]


class SharedLayer(nn.Module):
    """A convolution for all maps, batch normalization for each, ReLU6."""

    def __init__(
        self,
        channels: int,
        num_maps: int,
        depthwise: bool,
        kernel_size: int = 3,
        norm_momentum: float = 0.03,
    ) -> None:
        super().__init__()
        if depthwise:
            self.conv = nn.Sequential(
                PaddedConv2d(channels, channels, kernel_size, groups=channels),
                PaddedConv2d(channels, channels, 1),
            )
        else:
            self.conv = PaddedConv2d(channels, channels, kernel_size)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels, eps=1e-3, momentum=norm_momentum) for _ in range(num_maps)
        )

    def forward(self, features: Tensor, index: int) -> Tensor:
        """Return (B, C, H, W) for features (B, C, H, W) of the map with this index."""
        return F.relu6(self.norms[index](self.conv(features)))


MakePredictors = Callable[[Sequence[int], Sequence[int], int], Predictors]


def as_rows(raw: Tensor, columns: int) -> Tensor:
    """Return a map (B, boxes*columns, H, W) as (B, H*W*boxes, columns): cell by cell."""
    # Not len(): an exported network would take batches of one size only.
    return raw.permute(0, 2, 3, 1).reshape(raw.shape[0], -1, columns)


EXTRA_CHANNELS = (512, 256, 256, 128)
MIN_EXTRA_CHANNELS = 16


class ExtraMap(nn.Sequential):
    """One more, coarser map: 1x1 to half the channels, then 3x3 at stride 2.

    The 3x3 is depthwise separable in SSDLite (Sandler et al. 2018).
    """

    def __init__(
        self,
        in_channels: int,
        middle: int,
        out_channels: int,
        padding: Padding,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, middle, 1, padding=padding)
        self.shrink: nn.Module = (
            DepthwiseSeparable(middle, out_channels, 2, padding)
            if depthwise
            else ConvNormAct(middle, out_channels, 3, 2, padding=padding)
        )


class SSD(ImageNetwork):
    """Single-shot detector on any backbone.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its maps are the finest
            sources.
        num_classes: Classes of the data, background not counted.
        extra_channels: Channels of the additional maps, each at half the size of the one before;
            none for a ``FeaturePyramid`` or a ``PoolingPyramid``, which have their own.
        extra_width_mult: Thins the additional maps (at least 16 channels); None takes the
            backbone's ``width_mult`` where it has one, else 1.
        depthwise_extras: Depthwise separable convolutions there, as in SSDLite.
        predictors: Makes the predictors from the channels of the maps, the boxes of a cell and the
            number of columns, such as ``DepthwisePredictors``; None takes ``Predictors``.
        anchors: None makes the default boxes of the paper for these maps.
        loss: None takes ``MultiBoxLoss()``.
        postprocess: None takes ``PostProcess()``.
        score_activation: ``softmax`` or ``sigmoid`` (TensorFlow's public checkpoints).
        padding: Padding of the additional maps, see ``backbone.layers``.
        **pixels: ``pixel_mean`` and ``pixel_std``, see ``ImageNetwork``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        extra_channels: Sequence[int] = EXTRA_CHANNELS,
        extra_width_mult: float | None = None,
        depthwise_extras: bool = False,
        predictors: MakePredictors | None = None,
        anchors: AnchorGrid | None = None,
        loss: AnchorLoss | None = None,
        postprocess: PostProcess | None = None,
        score_activation: ScoreActivation = "softmax",
        padding: Padding = "same",
        **pixels: float,
    ) -> None:
        super().__init__(backbone, **pixels)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.score_activation: ScoreActivation = score_activation
        width_mult = extra_width_mult or getattr(backbone, "width_mult", 1.0)
        channels = list(self.backbone_info.channels)
        self.extras = nn.ModuleList()
        for base in extra_channels:
            out = max(int(base * width_mult), MIN_EXTRA_CHANNELS)
            middle = max(int(base // 2 * width_mult), MIN_EXTRA_CHANNELS)
            self.extras.append(ExtraMap(channels[-1], middle, out, padding, depthwise_extras))
            channels.append(out)
        self.anchors = anchors or DefaultBoxes(num_maps=len(channels))
        boxes_per_cell = self.anchors.boxes_per_cell
        self.predictors = (predictors or Predictors)(channels, boxes_per_cell, num_classes + 1)
        self.box_coder = BoxCoder()
        self.loss = loss  # None until training asks for it: inference needs none
        self.postprocess = postprocess or PostProcess()
        for module in self.extras.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.03)
        self.predictors.initialize(self.score_activation)

    def forward(self, images: Tensor) -> SSDOutput:
        """Return the output at each anchor, for images (B, 3, H, W) uint8 or float, RGB."""
        features = list(self.backbone(self.normalized(images)))
        for extra in self.extras:
            features.append(extra(features[-1]))
        predictions = self.predictors(features)
        height, width = images.shape[-2:]
        maps_hw = [(int(map_.shape[-2]), int(map_.shape[-1])) for map_ in features]
        deltas, logits, *landmarks = (
            torch.cat(of_maps, dim=1) for of_maps in zip(*predictions, strict=True)
        )
        return SSDOutput(
            deltas,
            logits,
            self.anchors((int(height), int(width)), maps_hw, images.device),
            self.anchors.layout(maps_hw),
            *landmarks,
        )

    def class_layers(self) -> dict[str, ClassRows]:
        """See ``ImageNetwork``."""
        layers = set(self.predictors.class_layers())
        return {
            name: ClassRows(background=True)
            for name, module in self.named_modules()
            if module in layers
        }

    def compute_losses(self, output: SSDOutput, target: DetectionTarget) -> dict[str, Tensor]:
        """Return the parts of the loss, scalars to be summed; in evaluation too."""
        if self.loss is None:
            self.loss = MultiBoxLoss()
        return self.loss(output, target, self.box_coder, self.score_activation)

    def scores(self, output: SSDOutput) -> Tensor:
        """Return the scores (B, A, num_classes) float32 in [0, 1], background left out."""
        logits = output.class_logits.float()
        if self.score_activation == "softmax":
            if self.num_classes == 1:  # the same, and faster than over two columns
                return (logits[..., 1:] - logits[..., :1]).sigmoid()
            return logits.softmax(dim=-1)[..., 1:]
        return logits[..., 1:].sigmoid()

    def detect(self, output: SSDOutput, size_hw: tuple[int, int]) -> Detections:
        """Return the detections of a batch, in pixels of an input of ``size_hw``."""
        boxes = self.box_coder.decode(output.box_deltas.float(), output.anchors)
        return self.postprocess(boxes, self.scores(output), size_hw)
