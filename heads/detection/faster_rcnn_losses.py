"""Faster R-CNN's two objectives, vectorized over the batch.

Ren et al. 2015, equation 1, and Girshick 2015 (Fast R-CNN), equation 1, with torchvision's
choices: means over the sampled boxes and smooth-L1 with beta 1/9.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...datasets.types import PADDING_LABEL, DetectionTarget
from .assigners import Matches, match_anchors
from .boxes import BACKGROUND, BoxCoder, area, pairwise_intersection, pairwise_iou
from .faster_rcnn_heads import Proposals, RoIOutput, RPNOutput
from .losses import hardest

SMOOTH_L1_BETA = 1 / 9


class RPNLoss(nn.Module):
    """Objectness and boxes of a random, balanced sample of the anchors.

    Args:
        positive_iou: Least IoU with an object of a positive anchor; each object's best anchor is
            positive in any case.
        negative_iou: Anchors with less than this are background; those in between are ignored.
        crowd_threshold: Share of an anchor on a crowd region above which it is ignored.
        samples: Sampled anchors of each image.
        positive_fraction: At most this share of them is positive.
        box_weight: Factor of the box loss.
    """

    def __init__(
        self,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        crowd_threshold: float = 0.5,
        samples: int = 256,
        positive_fraction: float = 0.5,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.crowd_threshold = crowd_threshold
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.box_weight = box_weight

    def forward(
        self, output: RPNOutput, target: DetectionTarget, box_coder: BoxCoder
    ) -> dict[str, Tensor]:
        """Return ``{"rpn_objectness": scalar, "rpn_box": scalar}``."""
        target = at_least_one_row(target)
        anchors, crowd = output.anchors, self.crowd_threshold
        matches = match_anchors(anchors, target, self.positive_iou, crowd)
        near = match_anchors(anchors, target, self.negative_iou, crowd).positive
        negative = ~(matches.positive | matches.ignored | near)
        chosen = sample(
            matches.positive, negative, self.samples, self.positive_fraction, self.training
        )
        total = chosen.sum().clamp_min(1)
        truth = matches.positive.float()
        objectness = F.binary_cross_entropy_with_logits(
            output.objectness.float(), truth, reduction="none"
        )
        learns = matches.positive & chosen
        wanted = matched_deltas(anchors, target, matches.objects, learns, box_coder)
        return {
            "rpn_objectness": objectness.masked_fill(~chosen, 0.0).sum() / total,
            "rpn_box": self.box_weight * box_loss(output.box_deltas, wanted, learns) / total,
        }


class RoISample(NamedTuple):
    """The S sampled boxes of each image for the second stage, and their targets."""

    boxes: Tensor
    """(B, S, 4) float32 xyxy pixels."""
    chosen: Tensor
    """(B, S) bool; False marks padding."""
    classes: Tensor
    """(B, S) int64, the target column of the logits; 0 is background."""
    box_deltas: Tensor
    """(B, S, 4) offsets from the box to its object; 0 for background."""


class RoILoss(nn.Module):
    """Classes and boxes of a random, balanced sample of the proposals and the objects themselves.

    A fresh first stage seldom proposes objects: without them the second stage would see little but
    background at first.

    Args:
        iou_threshold: Least IoU with an object of a positive box; the others are background.
        crowd_threshold: Share of a box on a crowd region above which it is ignored.
        samples: Sampled boxes of each image. The second stage is nearly all of the cost, so
            training time grows with them.
        positive_fraction: At most this share of them is positive.
        box_weight: Factor of the box loss.
    """

    def __init__(
        self,
        iou_threshold: float = 0.5,
        crowd_threshold: float = 0.5,
        samples: int = 64,
        positive_fraction: float = 0.25,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
        self.crowd_threshold = crowd_threshold
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.box_weight = box_weight

    @torch.no_grad()
    def choose(
        self, proposals: Proposals, target: DetectionTarget, box_coder: BoxCoder
    ) -> RoISample:
        """Return a sample of the same number of boxes for each image."""
        target = at_least_one_row(target)
        candidates = Proposals(
            torch.cat([proposals.boxes, target.boxes], dim=1),
            torch.cat([proposals.valid, (target.labels >= 0) & ~target.crowd], dim=1),
        )
        matches = match_proposals(candidates, target, self.iou_threshold, self.crowd_threshold)
        negative = ~(matches.positive | matches.ignored)
        chosen = sample(
            matches.positive, negative, self.samples, self.positive_fraction, self.training
        )
        learns = matches.positive & chosen
        wanted = matched_deltas(candidates.boxes, target, matches.objects, learns, box_coder)
        classes = target.labels.gather(1, matches.objects) + 1
        classes = classes.masked_fill(~matches.positive, BACKGROUND)

        front = chosen.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : self.samples]
        quads = front[..., None].expand(-1, -1, 4)
        return RoISample(
            candidates.boxes.gather(1, quads),
            chosen.gather(1, front),
            classes.gather(1, front),
            wanted.gather(1, quads),
        )

    def forward(self, output: RoIOutput, chosen: RoISample) -> dict[str, Tensor]:
        """Return ``{"roi_classification": scalar, "roi_box": scalar}`` for the sampled boxes."""
        total = chosen.chosen.sum().clamp_min(1)
        logits, classes = output.class_logits.float(), chosen.classes
        classification = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
        classification = classification.masked_fill(~chosen.chosen.flatten(), 0.0).sum()
        of_class = (classes - 1).clamp_min(0)[..., None, None].expand(-1, -1, 1, 4)
        deltas = output.box_deltas.gather(2, of_class).squeeze(2)
        box = box_loss(deltas, chosen.box_deltas, chosen.chosen & (classes != BACKGROUND))
        return {
            "roi_classification": classification / total,
            "roi_box": self.box_weight * box / total,
        }


def at_least_one_row(target: DetectionTarget) -> DetectionTarget:
    """Return the target with a row of padding where no image of the batch has any object."""
    if target.labels.shape[1]:
        return target
    return DetectionTarget(
        F.pad(target.boxes, (0, 0, 0, 1)),
        F.pad(target.labels, (0, 1), value=PADDING_LABEL),
        F.pad(target.crowd, (0, 1), value=False),
    )


@torch.no_grad()
def match_proposals(
    proposals: Proposals,
    target: DetectionTarget,
    iou_threshold: float = 0.5,
    crowd_threshold: float = 0.5,
) -> Matches:
    """Match each image's own proposals (B, P) to its objects, N > 0, all images at once.

    Unlike anchors, no proposal is forced on an object that none overlaps enough. Padding is
    ignored, and so are proposals of which the share ``crowd_threshold`` is on a crowd region.
    """
    is_row = target.labels >= 0
    iou = pairwise_iou(target.boxes, proposals.boxes)  # (B, N, P)
    best, objects = iou.masked_fill(~(is_row & ~target.crowd)[..., None], -1.0).max(dim=1)
    positive = (best >= iou_threshold) & proposals.valid
    shared = pairwise_intersection(target.boxes, proposals.boxes)
    covered = shared >= crowd_threshold * area(proposals.boxes)[:, None]
    on_crowd = (covered & (is_row & target.crowd)[..., None]).any(dim=1)
    return Matches(objects, positive, (on_crowd & ~positive) | ~proposals.valid)


@torch.no_grad()
def sample(
    positive: Tensor, negative: Tensor, count: int, positive_fraction: float, training: bool
) -> Tensor:
    """Choose at most ``count`` boxes of each image at random (Ren et al. 2015, Section 3.1.3).

    At most the share ``positive_fraction`` is positive; negatives take the places that
    positives leave. All masks are (B, A) bool. If not ``training`` the sample is the same each
    time, from a generator of its own, so that validation losses can be compared and do not
    change the training.
    """
    device = positive.device
    generator = None if training else torch.Generator(device).manual_seed(0)
    order = torch.rand(positive.shape, device=device, generator=generator)
    wanted = positive.sum(dim=1).clamp_max(int(count * positive_fraction))
    return hardest(order, positive, wanted) | hardest(order, negative, count - wanted)


@torch.no_grad()
def matched_deltas(
    references: Tensor, target: DetectionTarget, objects: Tensor, learns: Tensor, coder: BoxCoder
) -> Tensor:
    """Return the offsets (B, A, 4) from boxes to their objects, 0 where not ``learns``.

    ``references`` are anchors (A, 4) or proposals (B, A, 4), xyxy pixels, ``objects`` (B, A)
    int64 the rows of the target, N > 0, that they are matched to, and ``learns`` is (B, A)
    bool.
    """
    boxes = target.boxes.gather(1, objects[..., None].expand(-1, -1, 4))
    return coder.encode(boxes, references).masked_fill(~learns[..., None], 0.0)


def box_loss(deltas: Tensor, wanted: Tensor, learns: Tensor) -> Tensor:
    """Return the sum of smooth-L1 over offsets (B, A, 4) where ``learns`` (B, A)."""
    losses = F.smooth_l1_loss(deltas.float(), wanted, reduction="none", beta=SMOOTH_L1_BETA)
    return losses.sum(dim=-1).masked_fill(~learns, 0.0).sum()
