"""Losses of detectors with anchors, vectorized over the batch.

A loss has three parts, each a class that the YAML can choose: an assigner, a loss of the classes
and one of the boxes.
"""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss, sigmoid_focal_loss

from ...datasets.types import DetectionTarget
from .assigners import Assigner, Matches, MaxIoUAssigner
from .boxes import BACKGROUND, BoxCoder, ScoreActivation, SSDOutput

MIN_SIDE_PX = 1e-3  # of a decoded box


class BoxLoss(nn.Module):
    """Base of the box losses: a sum over the positive anchors of a batch."""

    def forward(
        self, deltas: Tensor, boxes: Tensor, anchors: Tensor, positive: Tensor, box_coder: BoxCoder
    ) -> Tensor:
        """Return the loss, a scalar, not yet divided by the number of positive anchors.

        ``deltas`` (B, A, 4) are the network's offsets, ``boxes`` (B, A, 4) the object of
        each positive anchor, ``anchors`` (A, 4), all float32, the latter two xyxy pixels;
        ``positive`` is (B, A) bool.
        """
        raise NotImplementedError


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
            of the centers, and the difference of the aspect ratios.
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
        predicted = box_coder.decode(deltas[positive], chosen)
        corner = predicted[:, :2]
        # CIoU divides by the height of the box.
        opposite = torch.maximum(predicted[:, 2:], corner + MIN_SIDE_PX)
        measure = generalized_box_iou_loss if self.kind == "giou" else complete_box_iou_loss
        predicted = torch.cat([corner, opposite], dim=1)
        return measure(predicted, boxes[positive], reduction="sum")


class ClassificationLoss(nn.Module):
    """Base of the classification losses: a sum over the anchors of a batch."""

    def forward(
        self, logits: Tensor, classes: Tensor, matches: Matches, score_activation: ScoreActivation
    ) -> Tensor:
        """Return the loss, a scalar, not yet divided by the number of positive anchors.

        ``logits`` are (B, A, num_classes + 1) float32, of which column 0 is background, and
        ``classes`` (B, A) int64 the target column of each anchor. Ignored anchors have no
        loss.
        """
        raise NotImplementedError


class MinedCrossEntropy(ClassificationLoss):
    """Cross entropy of the positives and of the hardest negatives (Liu et al. 2016, Section 2.2).

    With ``sigmoid`` scores it is binary cross entropy, summed over the columns; background has its
    own column there too, as in TensorFlow.

    Args:
        negatives_per_positive: Hard negatives for each positive (3 in the paper), image by image.
        min_negatives: Hard negatives of an image however few positives it has.
    """

    def __init__(self, negatives_per_positive: float = 3.0, min_negatives: int = 8) -> None:
        super().__init__()
        self.negatives_per_positive = negatives_per_positive
        self.min_negatives = min_negatives

    def forward(
        self, logits: Tensor, classes: Tensor, matches: Matches, score_activation: ScoreActivation
    ) -> Tensor:
        """Return the sum, see ``ClassificationLoss``."""
        losses = class_losses(logits, classes, score_activation)
        negative = ~(matches.positive | matches.ignored)
        wanted = matches.positive.sum(dim=1) * self.negatives_per_positive
        mined = hardest(losses, negative, wanted.clamp_min(self.min_negatives))
        return losses.masked_fill(~(matches.positive | mined), 0.0).sum()


class FocalLoss(ClassificationLoss):
    """Focal loss over all anchors (Lin et al. 2017, "Focal Loss for Dense Object Detection").

    Equation 5: -alpha_t (1 - p_t)^gamma log(p_t), so that the many easy negatives weigh little and
    none has to be mined. With ``sigmoid`` scores it is summed over the classes; the column of the
    background takes no part, as in the paper. With ``softmax`` scores p_t is the probability of
    the right column.

    Args:
        alpha: Weight of the objects, 1 - alpha that of the background; in [0, 1].
        gamma: Focusing, at least 1; 0 gives weighted cross entropy. In between the gradient of a
            certain anchor is not finite.

    Raises:
        ValueError: alpha or gamma is out of its range.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if gamma < 1 and gamma != 0:
            raise ValueError(f"gamma must be 0 or at least 1, got {gamma}")
        self.alpha = alpha
        self.gamma = gamma

    def forward(
        self, logits: Tensor, classes: Tensor, matches: Matches, score_activation: ScoreActivation
    ) -> Tensor:
        """Return the sum, see ``ClassificationLoss``."""
        if score_activation == "softmax":
            entropy = class_losses(logits, classes, score_activation)
            alpha = torch.where(classes == BACKGROUND, 1 - self.alpha, self.alpha)
            # The cross entropy is -log(p_t), and so -expm1 of its negative is 1 - p_t.
            losses = alpha * (-torch.expm1(-entropy)) ** self.gamma * entropy
        else:
            truth = torch.zeros_like(logits).scatter_(2, classes[..., None], 1.0)
            losses = sigmoid_focal_loss(
                logits[..., 1:], truth[..., 1:], alpha=self.alpha, gamma=self.gamma
            ).sum(dim=-1)
        return losses.masked_fill(matches.ignored, 0.0).sum()


class AnchorLoss(nn.Module):
    """Classification plus boxes, both divided by the batch's number of positive anchors.

    Args:
        assigner: None takes ``MaxIoUAssigner()``.
        classification: None takes ``MinedCrossEntropy()``.
        box: None takes ``SmoothL1BoxLoss()``.
        box_weight: Factor of the box loss (alpha in Liu et al. 2016, equation 1).
    """

    def __init__(
        self,
        assigner: Assigner | None = None,
        classification: ClassificationLoss | None = None,
        box: BoxLoss | None = None,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.assigner = assigner or MaxIoUAssigner()
        self.classification = classification or MinedCrossEntropy()
        self.box = box or SmoothL1BoxLoss()
        self.box_weight = box_weight

    def forward(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,
        score_activation: ScoreActivation = "softmax",
    ) -> dict[str, Tensor]:
        """Return ``{"classification": scalar, "box": scalar}``; their sum is the objective.

        The output may have any float dtype; the loss is calculated in float32. Boxes of the
        target are in pixels of the network's input.
        """
        output = output._replace(
            box_deltas=output.box_deltas.float(), class_logits=output.class_logits.float()
        )
        matches = self.assigner(output, target, box_coder, score_activation)
        return self.parts(output, target, matches, box_coder, score_activation)

    def parts(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        matches: Matches,
        box_coder: BoxCoder,
        score_activation: ScoreActivation,
    ) -> dict[str, Tensor]:
        """Return the parts of the loss of an output in float32, by the role of each anchor."""
        deltas, logits = output.box_deltas, output.class_logits
        positives = matches.positive.sum().clamp_min(1)
        classes = target_classes(target, matches)
        classification = self.classification(logits, classes, matches, score_activation)
        if target.labels.shape[1] == 0:
            box = deltas.sum() * 0.0
        else:
            boxes = target.boxes.gather(1, matches.objects[..., None].expand(-1, -1, 4))
            box = self.box(deltas, boxes, output.anchors, matches.positive, box_coder)
        return {
            "classification": classification / positives,
            "box": self.box_weight * box / positives,
        }


class MultiBoxLoss(AnchorLoss):
    """SSD's loss (Liu et al. 2016, equations 1 to 3): hard-negative mining and smooth-L1.

    Args:
        iou_threshold: See ``MaxIoUAssigner``.
        crowd_threshold: See ``MaxIoUAssigner``.
        negatives_per_positive: See ``MinedCrossEntropy``.
        min_negatives: See ``MinedCrossEntropy``.
        box_weight: Factor of the box loss.
    """

    def __init__(
        self,
        iou_threshold: float = 0.5,
        crowd_threshold: float = 0.5,
        negatives_per_positive: float = 3.0,
        min_negatives: int = 8,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__(
            MaxIoUAssigner(iou_threshold, crowd_threshold),
            MinedCrossEntropy(negatives_per_positive, min_negatives),
            SmoothL1BoxLoss(),
            box_weight,
        )


def target_classes(target: DetectionTarget, matches: Matches) -> Tensor:
    """Return the target column (B, A) int64 of the logits of each anchor."""
    if target.labels.shape[1] == 0:
        return matches.objects
    labels = target.labels.gather(1, matches.objects) + 1
    return labels.masked_fill(~matches.positive, BACKGROUND)


def class_losses(logits: Tensor, classes: Tensor, score_activation: ScoreActivation) -> Tensor:
    """Return the classification loss of each anchor (B, A), before mining.

    ``logits`` are (B, A, C + 1) float32, ``classes`` (B, A) int64. It is the cross entropy for
    ``softmax``, and for ``sigmoid`` binary cross entropy, summed over the columns.
    """
    if score_activation == "softmax":
        flat = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
        return flat.reshape(classes.shape)
    truth = F.one_hot(classes, logits.shape[-1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(dim=-1)


@torch.no_grad()
def hardest(losses: Tensor, candidates: Tensor, wanted: Tensor) -> Tensor:
    """Choose in each image the candidates with the highest loss (Liu et al. 2016, Section 2.2).

    Of losses (B, A) and candidates (B, A) bool, ``wanted`` (B,) are chosen, or all if they are
    fewer: (B, A) bool.
    """
    # The inverse of the sorting permutation is the rank of each candidate.
    ranked = losses.masked_fill(~candidates, -torch.inf).argsort(dim=1, descending=True)
    ranks = torch.empty_like(ranked)
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    ranks.scatter_(1, ranked, places)
    return candidates & (ranks < wanted[:, None])
