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

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...backbone.features import ImageNetwork
from ...backbone.layers import ConvNormAct, DepthwiseSeparable, Padding
from ...datasets.types import Detections, DetectionTarget
from .anchors import AnchorGrid, DefaultBoxes, ScoreActivation, SSDOutput
from .boxes import BoxCoder
from .losses import AnchorLoss, MultiBoxLoss
from .postprocess import PostProcess
from .prediction_heads import MakePredictors, Predictors

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
            none for a ``FeaturePyramid``, which has its own.
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
        self.loss = loss or MultiBoxLoss()
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
        return SSDOutput(
            torch.cat([deltas for deltas, _ in predictions], dim=1),
            torch.cat([logits for _, logits in predictions], dim=1),
            self.anchors((int(height), int(width)), maps_hw, images.device),
            self.anchors.layout(maps_hw),
        )

    def compute_losses(self, output: SSDOutput, target: DetectionTarget) -> dict[str, Tensor]:
        """Return the parts of the loss, scalars to be summed; in evaluation too."""
        return self.loss(output, target, self.box_coder, self.score_activation)

    def scores(self, output: SSDOutput) -> Tensor:
        """Return the scores (B, A, num_classes) float32 in [0, 1], background left out."""
        logits = output.class_logits.float()
        if self.score_activation == "softmax":
            return logits.softmax(dim=-1)[..., 1:]
        return logits[..., 1:].sigmoid()

    def detect(self, output: SSDOutput, size_hw: tuple[int, int]) -> Detections:
        """Return the detections of a batch, in pixels of an input of ``size_hw``."""
        boxes = self.box_coder.decode(output.box_deltas.float(), output.anchors)
        return self.postprocess(boxes, self.scores(output), size_hw)
