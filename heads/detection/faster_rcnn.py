"""Faster R-CNN on a MobileNet (Ren et al. 2015; Howard et al. 2017, Section 4.6 and Table 13).

With 90 classes it has 6.06 M parameters and 25.22 G mult-adds at 300x300, 30.48 G at 600x600
(the paper: 6.1 M, 25.2 B, 30.5 B), nearly all of it in the second stage:

                                               300 px    600 px
    backbone up to block 11 (stride 16)        0.90 G    3.57 G    512 channels
    first stage: 3x3 to 512, 12 anchors        0.86      3.45
    second stage: 300 proposals                23.46     23.46
        RoIAlign to 7x7, block 12, block 13, average pooling, classes and a box for each class

That cost settles what the paper leaves open: both blocks have 7x7 outputs and 1,024 channels, the
first stage 512 channels, and each class has a box of its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...backbone.layers import Padding
from ...backbone.layers import freeze_norms as freeze
from ...backbone.mobilenet import BLOCKS, ClassRows, ImageNetwork, MobileNetV1
from ...datasets.types import Detections, DetectionTarget
from .boxes import BoxCoder, PostProcess
from .faster_rcnn_heads import (
    GridAnchors,
    Proposals,
    ProposalSelection,
    RoIHead,
    RoIOutput,
    RPNHead,
    RPNOutput,
)
from .faster_rcnn_losses import RoILoss, RPNLoss

RPN_CHANNELS = 512


class FasterRCNNOutput(NamedTuple):
    """The output of both stages, in training and in evaluation alike."""

    features: Tensor
    """(B, C, H, W), the backbone's map: the loss samples boxes of its own on it."""
    rpn: RPNOutput
    proposals: Proposals
    """The input of the second stage."""
    roi: RoIOutput
    """The second stage at each proposal. While training it has no rows (P = 0): the loss runs that
    stage on the boxes that it samples, which are fewer, and only once."""


class FasterRCNN(ImageNetwork):
    """Two-stage detector on one map of any backbone.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol with a single map, such as
            ``MobileNetV1(out_strides=[16])``.
        num_classes: Classes of the data, background not counted.
        anchors: Boxes of the first stage; None takes ``GridAnchors()``.
        proposals: Selects those of the second; None takes ``ProposalSelection()``.
        rpn_loss: Loss of the first stage; None takes ``RPNLoss()``.
        roi_loss: Loss of the second; None takes ``RoILoss()``.
        postprocess: None takes ``PostProcess()``.
        rpn_channels: Channels of the first stage's 3x3 convolution.
        pooled_size: Cells of RoIAlign's output in each direction.
        freeze_norms: Keep all batch normalization as it was loaded, statistics, scale and shift,
            as the Object Detection API does: right for batches of one or two images.
        padding: Padding in the second stage, see ``backbone.layers``.
        **pixels: ``pixel_mean`` and ``pixel_std``, see ``ImageNetwork``.

    Raises:
        TypeError: backbone does not follow the protocol.
        ValueError: num_classes is not positive, or the backbone has more than one map.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        anchors: GridAnchors | None = None,
        proposals: ProposalSelection | None = None,
        rpn_loss: RPNLoss | None = None,
        roi_loss: RoILoss | None = None,
        postprocess: PostProcess | None = None,
        rpn_channels: int = RPN_CHANNELS,
        pooled_size: int = 7,
        freeze_norms: bool = False,
        padding: Padding = "same",
        **pixels: float,
    ) -> None:
        super().__init__(backbone, **pixels)
        if len(self.backbone_info.strides) != 1:
            raise ValueError(
                f"Faster R-CNN works on one map, this backbone has those at strides "
                f"{self.backbone_info.strides}; for MobileNetV1 set out_strides: [16]"
            )
        (channels,), (self.stride,) = self.backbone_info
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.anchors = anchors or GridAnchors()
        self.rpn = RPNHead(channels, rpn_channels, self.anchors.boxes_per_cell)
        self.rpn_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.select = proposals or ProposalSelection()
        self.roi = RoIHead(channels, self.stride, num_classes, pooled_size, padding)
        self.roi_coder = BoxCoder()
        self.rpn_loss = rpn_loss or RPNLoss()
        self.roi_loss = roi_loss or RoILoss()
        self.postprocess = postprocess or PostProcess()
        if freeze_norms:
            freeze(self)

    def forward(self, images: Tensor) -> FasterRCNNOutput:
        """Return the output of both stages for images (B, 3, H, W) uint8 or float, RGB."""
        (features,) = self.backbone(self.normalized(images))
        objectness, deltas = self.rpn(features)
        cells_hw = (int(features.shape[-2]), int(features.shape[-1]))
        rpn = RPNOutput(objectness, deltas, self.anchors(cells_hw, self.stride, images.device))
        size_hw = (int(images.shape[-2]), int(images.shape[-1]))
        proposals = self.select(rpn, self.rpn_coder, size_hw)
        roi = self.roi.nothing(features) if self.training else self.roi(features, proposals.boxes)
        return FasterRCNNOutput(features, rpn, proposals, roi)

    def class_layers(self) -> dict[str, ClassRows]:
        """See ``ImageNetwork``."""
        return {"roi.classes": ClassRows(background=True), "roi.boxes": ClassRows(each=4)}

    def compute_losses(
        self, output: FasterRCNNOutput, target: DetectionTarget
    ) -> dict[str, Tensor]:
        """Return the four parts of the loss, scalars to be summed; in evaluation too."""
        chosen = self.roi_loss.choose(output.proposals, target, self.roi_coder)
        return {
            **self.rpn_loss(output.rpn, target, self.rpn_coder),
            **self.roi_loss(self.roi(output.features, chosen.boxes), chosen),
        }

    def detect(self, output: FasterRCNNOutput, size_hw: tuple[int, int]) -> Detections:
        """Return the detections of a batch, in pixels of an input of ``size_hw``.

        Works on an output from training, too; the second stage then runs here.
        """
        features, _, proposals, roi = output
        if roi.class_logits.shape[1] != proposals.boxes.shape[1]:
            roi = self.roi(features, proposals.boxes)
        boxes = self.roi_coder.decode(roi.box_deltas.float(), proposals.boxes[:, :, None])
        scores = roi.class_logits.float().softmax(dim=-1)[..., 1:]
        return self.postprocess(boxes, scores * proposals.valid[..., None], size_hw)

    def pretrained_body(self) -> nn.Module:
        """Return the module that classification weights fill: the backbone, or a whole MobileNet.

        For a MobileNet of width 1 up to block 11, the second stage has the last two blocks. The
        module shares them with this network. At other widths the second stage, which is not
        thinned, starts afresh.
        """
        backbone = self.backbone
        if not isinstance(backbone, MobileNetV1) or backbone.width_mult != 1.0:
            return backbone
        if len(backbone.blocks) + len(self.roi.blocks) != len(BLOCKS):
            return backbone
        with torch.device("meta"):  # an empty shell: nothing is allocated or drawn at random
            body = MobileNetV1(out_strides=(self.stride * 2,))
        body.stem = backbone.stem
        body.blocks = nn.ModuleList([*backbone.blocks, *self.roi.blocks])
        return body.train(self.training)
