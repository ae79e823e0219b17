"""Which anchor learns which object (Liu et al. 2016, Section 2.2, "Matching strategy")."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...datasets.types import DetectionTarget
from .boxes import area, pairwise_intersection, pairwise_iou


class Matches(NamedTuple):
    """The role of each of A anchors in each of B images."""

    objects: Tensor
    """(B, A) int64, index of the object in the image's target; meaningful where ``positive``."""
    positive: Tensor
    """(B, A) bool; this anchor learns its object's class and box."""
    ignored: Tensor
    """(B, A) bool; this anchor learns nothing: it lies on a crowd region."""


@torch.no_grad()
def match_anchors(
    anchors: Tensor,
    target: DetectionTarget,
    iou_threshold: float = 0.5,
    crowd_threshold: float = 0.5,
) -> Matches:
    """Match anchors to objects, all images of the batch at once.

    An anchor takes the object it overlaps most where that IoU reaches ``iou_threshold``. Besides,
    each object gets the anchor that overlaps it most, whatever the IoU; where two objects want the
    same anchor, the better overlap has it.

    Args:
        anchors: (A, 4) xyxy pixels.
        target: B images with up to N objects; padding and images without objects are fine.
        iou_threshold: Least IoU of a positive anchor.
        crowd_threshold: A negative anchor is ignored where at least this share of its area lies
            on one crowd region.
    """
    if target.labels.shape[1] == 0:
        return no_matches(len(target.labels), anchors)
    iou = pairwise_iou(target.boxes, anchors)  # (B, N, A)
    iou = iou.masked_fill(~is_object(target)[..., None], -1.0)
    best_iou, objects = iou.max(dim=1)  # (B, A)
    positive = best_iou >= iou_threshold

    forced = _forced_overlaps(iou)
    forced_iou, forced_objects = forced.max(dim=1)
    is_forced = forced_iou >= 0
    objects = torch.where(is_forced, forced_objects, objects)
    positive = positive | is_forced

    crowd = on_crowd(anchors, target, crowd_threshold)
    return Matches(objects, positive, crowd & ~positive)


def is_object(target: DetectionTarget) -> Tensor:
    """Return which rows (B, N) bool of a target are objects, neither padding nor crowd regions."""
    return (target.labels >= 0) & ~target.crowd


def no_matches(num_images: int, anchors: Tensor) -> Matches:
    """Return the roles where no image of the batch has a row: all A anchors are background."""
    nothing = torch.zeros(num_images, len(anchors), dtype=torch.bool, device=anchors.device)
    return Matches(nothing.long(), nothing, nothing)


def on_crowd(anchors: Tensor, target: DetectionTarget, threshold: float) -> Tensor:
    """Return which anchors (B, A) bool lie on a crowd region with ``threshold`` of their area."""
    is_crowd = (target.labels >= 0) & target.crowd
    covered = pairwise_intersection(target.boxes, anchors) / area(anchors)
    return ((covered >= threshold) & is_crowd[..., None]).any(dim=1)


def _forced_overlaps(iou: Tensor) -> Tensor:
    """IoU (B, N, A) at each object's best anchor, -1 elsewhere."""
    best_overlap, best_anchor = iou.max(dim=2, keepdim=True)  # (B, N, 1)
    # An object that no anchor touches (IoU 0 everywhere) has no best anchor to force.
    overlaps = torch.full_like(iou, -1.0)
    return overlaps.scatter(2, best_anchor, torch.where(best_overlap > 0, best_overlap, -1.0))
