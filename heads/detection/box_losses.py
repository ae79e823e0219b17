"""How far a positive anchor's box is from its object's: on the offsets, or by overlap."""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from .boxes import BoxCoder

MIN_SIDE_PX = 1e-3  # of a decoded box: CIoU divides by its height


class BoxLoss(nn.Module):
    """Base of the box losses: a sum over the positive anchors of a batch."""

    def forward(
        self, deltas: Tensor, boxes: Tensor, anchors: Tensor, positive: Tensor, box_coder: BoxCoder
    ) -> Tensor:
        """Return the loss, a scalar, not yet divided by the number of positive anchors.

        Args:
            deltas: (B, A, 4) float32, the network's offsets.
            boxes: (B, A, 4) float32 xyxy pixels, the object each anchor should enclose; anything
                where the anchor is not positive.
            anchors: (A, 4) float32 xyxy pixels.
            positive: (B, A) bool.
            box_coder: Relates offsets and boxes.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say how it compares boxes")


class SmoothL1BoxLoss(BoxLoss):
    """Smooth-L1 over the four offsets (Liu et al. 2016, equation 2).

    Args:
        beta: Difference from which on the loss is linear.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(
        self, deltas: Tensor, boxes: Tensor, anchors: Tensor, positive: Tensor, box_coder: BoxCoder
    ) -> Tensor:
        """Return the sum, see ``BoxLoss``."""
        wanted = box_coder.encode(boxes, anchors)
        losses = F.smooth_l1_loss(deltas, wanted, reduction="none", beta=self.beta).sum(dim=-1)
        return losses.masked_fill(~positive, 0.0).sum()


class IoUBoxLoss(BoxLoss):
    """1 - IoU of the decoded box with its object, and a term for boxes that miss each other.

    Unlike offsets it measures what average precision measures, and weighs small and large boxes
    alike.

    Args:
        kind: ``giou`` (Rezatofighi et al. 2019, Algorithm 1): the share of the enclosing box that
            neither fills; in [0, 2]. ``ciou`` (Zheng et al. 2020, equations 8 to 11): the distance
            of the centres, and the difference of the aspect ratios.
    """

    def __init__(self, kind: Literal["giou", "ciou"] = "giou") -> None:
        super().__init__()
        if kind not in ("giou", "ciou"):
            raise ValueError(f"kind must be giou or ciou, got {kind!r}")
        self.kind = kind

    def forward(
        self, deltas: Tensor, boxes: Tensor, anchors: Tensor, positive: Tensor, box_coder: BoxCoder
    ) -> Tensor:
        """Return the sum, see ``BoxLoss``."""
        chosen = anchors.expand(len(deltas), -1, -1)[positive]
        found = box_coder.decode(deltas[positive], chosen)
        corner = found[:, :2]
        found = torch.cat([corner, torch.maximum(found[:, 2:], corner + MIN_SIDE_PX)], dim=1)
        measure = generalized_box_iou_loss if self.kind == "giou" else complete_box_iou_loss
        return measure(found, boxes[positive], reduction="sum")
