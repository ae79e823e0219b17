"""SSD's training objective (Liu et al. 2016, equations 1 to 3), vectorised over the batch."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...datasets.types import DetectionTarget
from .boxes import BoxCoder
from .matching import Matches, match_anchors

ScoreActivation = Literal["softmax", "sigmoid"]
BACKGROUND = 0  # class k of the data is column k + 1 of the logits


class SSDOutput(NamedTuple):
    """What the network says about each of A anchors, in training and in evaluation alike."""

    box_deltas: Tensor
    """(B, A, 4) offsets from the anchors in the box coder's terms."""
    class_logits: Tensor
    """(B, A, num_classes + 1); column 0 is background."""
    anchors: Tensor
    """(A, 4) float32 xyxy in pixels of the network's input."""


class MultiBoxLoss(nn.Module):
    """Classification with hard-negative mining plus smooth-L1 on the boxes of positive anchors.

    Both are sums over the batch divided by its number of positive anchors. Images without objects
    contribute their hardest ``min_negatives`` background anchors.

    Args:
        iou_threshold: Least IoU with an object of a positive anchor.
        crowd_threshold: Share of an anchor on a crowd region above which it is ignored.
        negatives_per_positive: Hard negatives for each positive (3 in the paper), image by image.
        min_negatives: Hard negatives of an image however few positives it has.
        box_weight: Factor of the box loss (alpha in equation 1).
    """

    def __init__(
        self,
        iou_threshold: float = 0.5,
        crowd_threshold: float = 0.5,
        negatives_per_positive: float = 3.0,
        min_negatives: int = 8,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
        self.crowd_threshold = crowd_threshold
        self.negatives_per_positive = negatives_per_positive
        self.min_negatives = min_negatives
        self.box_weight = box_weight

    def forward(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,
        score_activation: ScoreActivation = "softmax",
    ) -> dict[str, Tensor]:
        """Return ``{"classification": scalar, "box": scalar}``; their sum is the objective.

        Args:
            output: The network's output, any float dtype; the loss is computed in float32.
            target: Boxes in pixels of the network's input.
            box_coder: Turns matched boxes into regression targets.
            score_activation: ``softmax`` over background and classes, or an independent
                ``sigmoid`` for each (background has its own column there too, as in TensorFlow).
        """
        matches = match_anchors(output.anchors, target, self.iou_threshold, self.crowd_threshold)
        positives = matches.positive.sum().clamp_min(1)
        classification = self._classification(output, target, matches, score_activation)
        box = box_loss(output, target, matches, box_coder)
        return {
            "classification": classification / positives,
            "box": self.box_weight * box / positives,
        }

    def _classification(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        matches: Matches,
        score_activation: ScoreActivation,
    ) -> Tensor:
        classes = target_classes(target, matches)
        losses = class_losses(output.class_logits.float(), classes, score_activation)
        negative = ~(matches.positive | matches.ignored)
        wanted = matches.positive.sum(dim=1) * self.negatives_per_positive
        mined = hardest(losses, negative, wanted.clamp_min(self.min_negatives))
        return losses.masked_fill(~(matches.positive | mined), 0.0).sum()


def target_classes(target: DetectionTarget, matches: Matches) -> Tensor:
    """Return the column (B, A) int64 of the logits that each anchor should choose."""
    if target.labels.shape[1] == 0:
        return matches.objects
    labels = target.labels.gather(1, matches.objects) + 1
    return labels.masked_fill(~matches.positive, BACKGROUND)


def class_losses(
    logits: Tensor,
    classes: Tensor,
    score_activation: ScoreActivation,
) -> Tensor:
    """Return the classification loss of each anchor (B, A), before mining.

    Args:
        logits: (B, A, C + 1) float32.
        classes: (B, A) int64, the right column.
        score_activation: ``softmax``: cross entropy; ``sigmoid``: binary cross entropy, summed
            over the columns.
    """
    if score_activation == "softmax":
        flat = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
        return flat.reshape(classes.shape)
    truth = F.one_hot(classes, logits.shape[-1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(dim=-1)


@torch.no_grad()
def hardest(losses: Tensor, candidates: Tensor, wanted: Tensor) -> Tensor:
    """Choose in each image the candidates with the highest loss (Liu et al. 2016, Section 2.2).

    Args:
        losses: (B, A).
        candidates: (B, A) bool, the anchors to choose from.
        wanted: (B,) how many to choose; fewer where there are fewer candidates.

    Returns:
        (B, A) bool.
    """
    ranked = losses.masked_fill(~candidates, -torch.inf).argsort(dim=1, descending=True)
    ranks = torch.empty_like(ranked)
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    ranks.scatter_(1, ranked, places)
    return candidates & (ranks < wanted[:, None])


def box_loss(
    output: SSDOutput, target: DetectionTarget, matches: Matches, box_coder: BoxCoder
) -> Tensor:
    """Return the sum of smooth-L1 (beta 1) over the four offsets of all positive anchors."""
    deltas = output.box_deltas.float()
    if target.labels.shape[1] == 0:
        return deltas.sum() * 0.0
    objects = matches.objects[..., None].expand(-1, -1, 4)
    wanted = box_coder.encode(target.boxes.gather(1, objects), output.anchors)
    losses = F.smooth_l1_loss(deltas, wanted, reduction="none").sum(dim=-1)
    return losses.masked_fill(~matches.positive, 0.0).sum()
