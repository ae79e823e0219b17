"""Assignment of objects to anchors: three strategies, all images of a batch at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...datasets.types import DetectionTarget
from .boxes import BoxCoder, ScoreActivation, SSDOutput, area, pairwise_intersection, pairwise_iou

MOST_PAIRS = 2**26
"""Pairs of an anchor and an object beyond which images are matched one by one.

A photo of a crowd has a thousand faces, and the rest of its batch is padded to as many.
"""


class Matches(NamedTuple):
    """The role of each of A anchors in each of B images."""

    objects: Tensor
    """(B, A) int64, index of the object in the image's target; meaningful where ``positive``."""
    positive: Tensor
    """(B, A) bool; the anchor is a positive example of its object."""
    ignored: Tensor
    """(B, A) bool; the anchor has no loss, because it lies on a crowd region."""


@torch.no_grad()
def match_anchors(
    anchors: Tensor,
    target: DetectionTarget,
    iou_threshold: float = 0.5,
    crowd_threshold: float = 0.5,
    least_best_iou: float = 0.0,
) -> Matches:
    """Match anchors (A, 4) xyxy pixels to objects, all B images of the batch at once.

    An anchor is matched to the object it overlaps most where that IoU reaches
    ``iou_threshold``. In addition each object gets the anchor that overlaps it most, whatever
    the IoU (Liu et al. 2016, Section 2.2), or if it is at least ``least_best_iou``; of two
    objects with the same best anchor, the one that overlaps it more gets it. A negative anchor is
    ignored where at least ``crowd_threshold`` of its area lies on one crowd region. Padding and
    images without objects are fine.
    """
    if target.labels.shape[1] == 0:
        return no_matches(len(target.labels), anchors)
    limits = (iou_threshold, crowd_threshold, least_best_iou)
    if len(target.labels) > 1 and target.labels.numel() * len(anchors) > MOST_PAIRS:
        images = (match_anchors(anchors, each, *limits) for each in without_padding(target))
        return Matches(*map(torch.cat, zip(*images, strict=True)))
    iou = pairwise_iou(target.boxes, anchors)  # (B, N, A)
    iou = iou.masked_fill(~is_object(target)[..., None], -1.0)
    best_iou, objects = iou.max(dim=1)  # (B, A)
    positive = best_iou >= iou_threshold

    # IoU at each object's best anchor, -1 elsewhere, and where no anchor touches the object.
    best_overlap, best_anchor = iou.max(dim=2, keepdim=True)  # (B, N, 1)
    enough = (best_overlap > 0) & (best_overlap >= least_best_iou)
    best_overlap = torch.where(enough, best_overlap, -1.0)
    forced_iou, forced_objects = (
        torch.full_like(iou, -1.0).scatter(2, best_anchor, best_overlap).max(dim=1)
    )
    is_forced = forced_iou >= 0
    objects = torch.where(is_forced, forced_objects, objects)
    positive = positive | is_forced

    crowd = on_crowd(anchors, target, crowd_threshold)
    return Matches(objects, positive, crowd & ~positive)


def without_padding(target: DetectionTarget) -> Iterator[DetectionTarget]:
    """Yield the target (1, N, ...) of each image, without the padding at its end."""
    for row, count in enumerate((target.labels >= 0).sum(dim=1).tolist()):
        part = (slice(row, row + 1), slice(0, count))
        yield DetectionTarget(target.boxes[part], target.labels[part], target.crowd[part])


def is_object(target: DetectionTarget) -> Tensor:
    """Return which rows (B, N) bool of a target are objects, neither padding nor crowd regions."""
    return (target.labels >= 0) & ~target.crowd


def no_matches(num_images: int, anchors: Tensor) -> Matches:
    """Return the roles for a batch without objects: all A anchors are background."""
    nothing = torch.zeros(num_images, len(anchors), dtype=torch.bool, device=anchors.device)
    return Matches(nothing.long(), nothing, nothing)


def on_crowd(anchors: Tensor, target: DetectionTarget, threshold: float) -> Tensor:
    """Return which anchors (B, A) bool lie on a crowd region with ``threshold`` of their area."""
    is_crowd = (target.labels >= 0) & target.crowd
    covered = pairwise_intersection(target.boxes, anchors) / area(anchors)
    return ((covered >= threshold) & is_crowd[..., None]).any(dim=1)


class Assigner(nn.Module):
    """Base of the assigners.

    Args:
        crowd_threshold: An anchor without an object is ignored where at least this share of its
            area lies on one crowd region.
    """

    def __init__(self, crowd_threshold: float = 0.5) -> None:
        super().__init__()
        self.crowd_threshold = crowd_threshold

    @torch.no_grad()
    def forward(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,
        score_activation: ScoreActivation = "softmax",
    ) -> Matches:
        """Return the role of each anchor, by an output in float32 and B images of up to N objects.

        Some strategies read the output's anchors alone. Padding and images without objects
        are fine.
        """
        if target.labels.shape[1] == 0:
            return no_matches(len(target.labels), output.anchors)
        overlaps = self.overlaps(output, target, box_coder, score_activation)
        best, objects = overlaps.max(dim=1)
        positive = best > 0
        crowd = on_crowd(output.anchors, target, self.crowd_threshold)
        return Matches(objects, positive, crowd & ~positive)

    def overlaps(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,
        score_activation: ScoreActivation,
    ) -> Tensor:
        """Return how well (B, N, A) each anchor suits each object, 0 for a negative pair.

        Each anchor is matched to the object that it suits best.
        """
        raise NotImplementedError


class MaxIoUAssigner(Assigner):
    """SSD's own strategy: a fixed IoU, see ``match_anchors``.

    Args:
        iou_threshold: Least IoU with an object of a positive anchor.
        crowd_threshold: As for ``Assigner``.
        least_best_iou: Least IoU with an object of its best anchor, which is positive even below
            ``iou_threshold``; 0 takes any.
    """

    def __init__(
        self,
        iou_threshold: float = 0.5,
        crowd_threshold: float = 0.5,
        least_best_iou: float = 0.0,
    ) -> None:
        super().__init__(crowd_threshold)
        self.iou_threshold = iou_threshold
        self.least_best_iou = least_best_iou

    def forward(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,  # noqa: ARG002
        score_activation: ScoreActivation = "softmax",  # noqa: ARG002
    ) -> Matches:
        """See ``Assigner``."""
        limits = (self.iou_threshold, self.crowd_threshold, self.least_best_iou)
        return match_anchors(output.anchors, target, *limits)


class ATSSAssigner(Assigner):
    """A threshold for each object from the statistics of its candidates (Zhang et al. 2020).

    Algorithm 1 of "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive
    Training Sample Selection" (arXiv 1912.02424): candidates are on each map the anchors nearest to
    the object's center; positive are those whose IoU reaches mean plus standard deviation of all
    candidates of the object and whose center lies inside it. As in the authors' code for several
    anchors a cell, the nearest ``cells_per_map`` cells give all of their anchors.

    Beyond the paper, an object without a positive takes the anchor with the highest IoU, since the
    finest map of SSD-300 has cells of 16 px, and an object may lie between their centers.

    Args:
        cells_per_map: k of Algorithm 1.
        crowd_threshold: As for ``Assigner``.
    """

    def __init__(self, cells_per_map: int = 9, crowd_threshold: float = 0.5) -> None:
        super().__init__(crowd_threshold)
        if cells_per_map < 1:
            raise ValueError(f"cells_per_map must be at least 1, got {cells_per_map}")
        self.cells_per_map = cells_per_map

    def overlaps(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,  # noqa: ARG002
        score_activation: ScoreActivation,  # noqa: ARG002
    ) -> Tensor:
        """Return the IoU (B, N, A) of positive pairs and 0 of others."""
        anchors, objects = output.anchors, is_object(target)[..., None]
        iou = pairwise_iou(target.boxes, anchors).masked_fill(~objects, 0.0)
        candidates = self._candidates(output, target)  # (B, N, K)
        of_candidates = iou.gather(2, candidates)
        # The deviation of a single candidate is 0, and not NaN.
        alone = candidates.shape[2] == 1
        spread = of_candidates.std(dim=2, keepdim=True, correction=0 if alone else 1)
        threshold = of_candidates.mean(dim=2, keepdim=True) + spread
        reached = torch.where(of_candidates >= threshold, of_candidates, 0.0)
        chosen = torch.zeros_like(iou).scatter_(2, candidates, reached)
        chosen = chosen.masked_fill(~center_inside(anchors, target.boxes), 0.0)
        return chosen + best_of_unserved(iou, chosen)

    def _candidates(self, output: SSDOutput, target: DetectionTarget) -> Tensor:
        """Return the indices (B, N, K) of the anchors nearest to each object's center."""
        anchors = output.anchors
        if sum(cells * boxes for cells, boxes in output.layout) != len(anchors):
            raise ValueError(f"layout {output.layout} does not describe {len(anchors)} anchors")
        centers = (target.boxes[..., :2] + target.boxes[..., 2:]) / 2
        candidates, start = [], 0
        for cells, boxes in output.layout:
            of_map = anchors[start : start + cells * boxes : boxes]  # one anchor of each cell
            of_cells = (of_map[:, :2] + of_map[:, 2:]) / 2
            # By a matrix product, cdist would be off by a tenth of a pixel.
            exact = "donot_use_mm_for_euclid_dist"
            distances = torch.cdist(centers, of_cells[None], compute_mode=exact)
            nearest = distances.topk(min(self.cells_per_map, cells), dim=2, largest=False).indices
            every_box = torch.arange(boxes, device=anchors.device)
            candidates.append((start + nearest[..., None] * boxes + every_box).flatten(2))
            start += cells * boxes
        return torch.cat(candidates, dim=2)


class SimOTAAssigner(Assigner):
    """The anchors with the lowest cost for an object, as many as its best IoUs add up to.

    After SimOTA (Ge et al. 2021, "YOLOX", arXiv 2107.08430, Section 2.1): the cost of a pair is its
    classification loss plus ``iou_weight`` times -log(IoU) of the predicted box; an object takes
    the cheapest k of its candidates, where k is the sum of its ``top_overlaps`` best IoUs (at least
    1); an anchor that several objects take learns the cheapest of them. Candidates are the anchors
    whose center lies inside the object. Anchors have a size, so a fresh network's boxes already
    tell them apart, and the paper's preference for the middle of the object is left out; an object
    without a candidate gets the anchor with the highest IoU as one.

    Args:
        top_overlaps: Predicted boxes whose IoU counts towards k (10 in the authors' code).
        iou_weight: lambda of equation 1 (3 in the authors' code).
        crowd_threshold: As for ``Assigner``.
    """

    def __init__(
        self, top_overlaps: int = 10, iou_weight: float = 3.0, crowd_threshold: float = 0.5
    ) -> None:
        super().__init__(crowd_threshold)
        if top_overlaps < 1:
            raise ValueError(f"top_overlaps must be at least 1, got {top_overlaps}")
        self.top_overlaps = top_overlaps
        self.iou_weight = iou_weight

    def overlaps(
        self,
        output: SSDOutput,
        target: DetectionTarget,
        box_coder: BoxCoder,
        score_activation: ScoreActivation,
    ) -> Tensor:
        """Return 1 / (1 + cost) (B, N, A) of positive pairs and 0 of others."""
        candidates = self._candidates(output.anchors, target)
        boxes = box_coder.decode(output.box_deltas, output.anchors)
        iou = pairwise_iou(target.boxes, boxes).masked_fill(~candidates, 0.0)
        cost = class_cost(output.class_logits, target.labels, score_activation)
        cost = cost - self.iou_weight * iou.clamp_min(1e-8).log()
        best = min(self.top_overlaps, iou.shape[2])
        # Dynamic k of each object: the sum of its best IoUs, at least 1.
        wanted = iou.topk(best, dim=2).values.sum(dim=2, keepdim=True).int().clamp_min(1)
        # Costs are positive, but the difference of tiny logits may round below zero.
        suits = (1 / (1 + cost.clamp_min(0))).masked_fill(~candidates, 0.0)
        cheapest, places = suits.topk(best, dim=2)
        taken = torch.arange(best, device=suits.device) < wanted
        return torch.zeros_like(suits).scatter_(2, places, cheapest.masked_fill(~taken, 0.0))

    def _candidates(self, anchors: Tensor, target: DetectionTarget) -> Tensor:
        objects = is_object(target)[..., None]
        inside = center_inside(anchors, target.boxes) & objects
        iou = pairwise_iou(target.boxes, anchors).masked_fill(~objects, 0.0)
        return inside | (best_of_unserved(iou, inside) > 0)


def class_cost(logits: Tensor, labels: Tensor, score_activation: ScoreActivation) -> Tensor:
    """Return the classification loss (B, N, A) of each pair of an anchor and an object.

    Cross entropy, or binary cross entropy summed over the classes without background. Either is
    a sum that does not depend on the label, less the label's logit. ``logits`` are (B, A, C +
    1) float32, ``labels`` (B, N) int64, arbitrary for padding.
    """
    if score_activation == "softmax":
        common = logits.logsumexp(dim=-1)
    else:
        common = F.softplus(logits[..., 1:]).sum(dim=-1)
    columns = (labels.clamp_min(0) + 1)[:, None, :].expand(-1, logits.shape[1], -1)
    return common[:, None, :] - logits.gather(2, columns).transpose(1, 2)


def center_inside(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, N, A) bool: the center of anchor (A, 4) is strictly inside box (B, N, 4)."""
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    after = centers > boxes[..., None, :2]
    before = centers < boxes[..., None, 2:]
    return (after & before).all(dim=-1)


def best_of_unserved(iou: Tensor, served: Tensor) -> Tensor:
    """Return the IoU at the best anchor of each object without a positive one, 0 elsewhere.

    ``iou`` (B, N, A) is 0 for padding and crowd regions, ``served`` (B, N, A) not 0 for
    positive pairs.
    """
    best, place = iou.max(dim=2, keepdim=True)
    unserved = ~served.any(dim=2, keepdim=True)
    return torch.zeros_like(iou).scatter_(2, place, torch.where(unserved, best, 0.0))
