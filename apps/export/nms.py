"""Detection operators that can be exported: non-maximum suppression (NMS) and RoIAlign.

``heads.detection.postprocess`` considers a varying number of candidates, which exported graphs
cannot. Here every anchor is considered, and one operator, ``multiclass_nms``, selects the surviving
scores. ONNX has an operator for it; ``DECOMPOSITIONS`` has tensor operations for the other formats.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, library, nn
from torchvision.ops import nms

from ...datasets.types import PADDING_LABEL, Detections
from ...heads.detection.boxes import (
    BoxCoder,
    LandmarksOfRows,
    PostProcess,
    clip_boxes,
    pairwise_iou,
    take_rows,
)
from ...heads.detection.faster_rcnn_heads import Proposals, ProposalSelection, RPNOutput

DENSE_CANDIDATES = 1024
"""Number of candidates of an image, all groups together, that the tensor operations consider."""
DENSE_ROUNDS = 32
"""Longest chain of boxes, each suppressing the next, that the tensor operations resolve."""


@library.custom_op("mobilevision::multiclass_nms", mutates_args=())
def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run greedy NMS in each group of each image and return the best boxes.

    Args:
        boxes: (B, A, 4) float, xyxy.
        scores: (B, A, G) float: the boxes' scores in each of G groups, such as classes.
        iou_threshold: A box is removed if it overlaps a better one of its group by more than this.
        score_threshold: Boxes have to score more than this; at least 0.
        candidates: Maximum number of boxes of each group that are considered, best first.
        wanted: Number of boxes of each image, all groups together; at most A * G.

    Returns:
        Scores (B, wanted) float, falling, padded with 0; the indices of their boxes and groups,
        (B, wanted) int64 each, undefined in the padding.
    """
    scores = _best_of_group(scores, candidates)
    kept = torch.zeros_like(scores)
    above = scores > score_threshold
    for image, group in above.any(dim=1).nonzero().tolist():
        rows = above[image, :, group].nonzero().flatten()
        of_rows = scores[image, rows, group]
        rows = rows[nms(boxes[image, rows], of_rows, iou_threshold)]
        kept[image, rows, group] = scores[image, rows, group]
    best, index = kept.flatten(1).topk(wanted, dim=1)
    return best, index // scores.shape[2], index % scores.shape[2]


@multiclass_nms.register_fake
def _(boxes, scores, iou_threshold, score_threshold, candidates, wanted):  # noqa: ARG001
    best = scores.new_empty(scores.shape[0], wanted)
    places = torch.empty_like(best, dtype=torch.int64)
    return best, places, torch.empty_like(places)


def multiclass_nms_dense(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``multiclass_nms`` as tensor operations of fixed shapes, for formats without NMS.

    The outputs are the same for up to ``DENSE_CANDIDATES`` boxes above the threshold and chains of
    up to ``DENSE_ROUNDS`` boxes.
    """
    count, flat = scores.shape[2], scores.flatten(1)
    considered = min(max(DENSE_CANDIDATES, wanted), flat.shape[1])
    best, index = flat.topk(considered, dim=1)  # (B, M), falling
    rows, groups = index // count, index % count
    chosen = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    later = torch.ones(considered, considered, device=boxes.device).tril(-1)  # [worse, better]
    rivals = (groups[:, :, None] == groups[:, None, :]).to(best.dtype) * later
    hidden_by = rivals * (pairwise_iou(chosen, chosen) > iou_threshold).to(best.dtype)
    alive = ((best > score_threshold) & (rivals.sum(dim=2) < candidates)).to(best.dtype)
    # Greedy NMS keeps a box if no better kept box hides it. Iterating that rule from "all alive"
    # settles at least one more box of each chain in every round, best first, and then stays.
    kept = alive
    for _ in range(DENSE_ROUNDS):
        kept = alive * ((hidden_by @ kept[..., None])[..., 0] < 0.5).to(best.dtype)
    front, places = (best * kept).topk(wanted, dim=1)
    return front, rows.gather(1, places), groups.gather(1, places)


MULTICLASS_NMS = torch.ops.mobilevision.multiclass_nms.default
"""The operator in exported programs."""
DECOMPOSITIONS = {MULTICLASS_NMS: multiclass_nms_dense}
"""For ``ExportedProgram.run_decompositions``."""


def roi_align(
    features: Tensor,
    rows: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Run ``torchvision.ops.roi_align`` by ``grid_sample``, for formats that have only that.

    The outputs are the same for boxes within the image that are in the order of the images, with
    the same number for each, as those of ``RoIHead``.

    Args:
        features: (B, C, H, W).
        rows: (B x P, 5): index of the image (not used), then xyxy in its pixels.
        spatial_scale: Scale from these to cells of the features.
        pooled_height: Height of the output.
        pooled_width: Width of the output.
        sampling_ratio: Samples in each direction that are averaged for a cell of the output.
        aligned: Whether the center of a cell is at a half; must be true.

    Returns:
        (B x P, C, pooled_height, pooled_width).
    """
    assert aligned
    assert sampling_ratio > 0
    batch, channels, height, width = features.shape
    x1, y1, x2, y2 = (rows[:, 1:] * spatial_scale).split(1, dim=1)  # (B x P, 1) each
    down, across = pooled_height * sampling_ratio, pooled_width * sampling_ratio
    x = x1 + (x2 - x1) * ((torch.arange(across, dtype=rows.dtype) + 0.5) / across)
    y = y1 + (y2 - y1) * ((torch.arange(down, dtype=rows.dtype) + 0.5) / down)
    shape = (len(rows), down, across)
    x, y = (x * (2 / width) - 1)[:, None, :], (y * (2 / height) - 1)[:, :, None]
    places = torch.stack([x.expand(shape), y.expand(shape)], dim=-1).view(batch, -1, across, 2)
    samples = F.grid_sample(features, places, padding_mode="border", align_corners=False)
    by_box = samples.view(batch, channels, -1, down, across).transpose(1, 2)
    return F.avg_pool2d(by_box.reshape(-1, channels, down, across), sampling_ratio)


class ExportablePostProcess(nn.Module):
    """A ``PostProcess`` of operations that can be exported, with the limits of another one."""

    def __init__(self, original: PostProcess) -> None:
        super().__init__()
        self.limits = (original.iou_threshold, original.score_threshold)
        self.candidates = original.candidates_per_class
        self.max_detections = original.max_detections

    def forward(
        self,
        boxes: Tensor,
        scores: Tensor,
        size_hw: tuple[int, int],
        landmarks: LandmarksOfRows | None = None,
    ) -> Detections:
        """As ``PostProcess``."""
        boxes = clip_boxes(boxes.float(), size_hw)
        count, classes = scores.shape[1:]
        if boxes.ndim == 3:
            wanted = min(self.max_detections, count * classes)
            limits = (*self.limits, self.candidates, wanted)
            best, row, label = multiclass_nms(boxes, scores.float(), *limits)
        else:
            by_class = (boxes.transpose(1, 2), scores.float().transpose(1, 2))
            boxes, best, row = self._with_own_boxes(*by_class)
            label = row // count
        valid = best > 0
        return Detections(
            take_rows(boxes, row) * valid[..., None],
            best,
            torch.where(valid, label, PADDING_LABEL),
            None if landmarks is None else landmarks(row) * valid[..., None, None],
        )

    def _with_own_boxes(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run NMS for boxes (B, C, A, 4) of each class, with scores (B, C, A).

        Returns:
            The boxes as (B, C * A, 4), the best scores and their indices among these boxes.
        """
        classes, count = scores.shape[1:]
        # The operator shares boxes between groups, so each class becomes an image of its own.
        each = min(self.max_detections, count)
        given = (boxes.reshape(-1, count, 4), scores.reshape(-1, count, 1))
        of_class, place, _ = multiclass_nms(*given, *self.limits, self.candidates, each)
        wanted = min(self.max_detections, count * classes)
        best, which = of_class.reshape(-1, classes * each).topk(wanted, dim=1)
        first = torch.arange(classes, device=boxes.device)[:, None] * count
        places = (place.reshape(-1, classes, each) + first).reshape(-1, classes * each)
        return boxes.reshape(-1, classes * count, 4), best, places.gather(1, which)


class ExportableProposals(nn.Module):
    """A ``ProposalSelection`` of operations that can be exported, with the limits of another."""

    def __init__(self, original: ProposalSelection) -> None:
        super().__init__()
        self.count, self.candidates = original.count, original.candidates
        self.iou_threshold, self.min_size = original.iou_threshold, original.min_size

    def forward(self, rpn: RPNOutput, box_coder: BoxCoder, size_hw: tuple[int, int]) -> Proposals:
        """As ``ProposalSelection``."""
        objectness = rpn.objectness.float()
        total = min(self.candidates, objectness.shape[1])
        _, index = objectness.topk(total, dim=1)
        deltas = rpn.box_deltas.float().gather(1, index[..., None].expand(-1, -1, 4))
        boxes = clip_boxes(box_coder.decode(deltas, rpn.anchors[index]), size_hw)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= self.min_size).all(dim=-1)
        # The boxes are sorted, so their ranks serve as scores without ties.
        places = torch.arange(total, 0, -1, dtype=torch.float32, device=boxes.device)
        wanted = min(self.count, total)
        scores, limits = (places * large)[..., None], (self.iou_threshold, 0.0, total, wanted)
        best, index, _ = multiclass_nms(boxes, scores, *limits)
        kept = torch.zeros_like(boxes[..., 0]).scatter_add(1, index, (best > 0).to(boxes.dtype))
        # Kept boxes come first, then the others, each in their order.
        _, front = (places + kept * float(total)).topk(wanted, dim=1)
        chosen = boxes.gather(1, front[..., None].expand(-1, -1, 4))
        return Proposals(chosen, kept.gather(1, front) > 0)


def make_exportable(network: nn.Module) -> nn.Module:
    """Replace post-processing and proposals in a network, at any depth, by exportable modules."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is PostProcess:
                setattr(module, name, ExportablePostProcess(child))
            elif type(child) is ProposalSelection:
                setattr(module, name, ExportableProposals(child))
    return network


def _best_of_group(scores: Tensor, candidates: int) -> Tensor:
    """Set scores (B, A, G) to 0 except for the best ``candidates`` of each group."""
    if scores.shape[1] <= candidates:
        return scores
    last = scores.topk(candidates, dim=1).values[:, -1:]
    return torch.where(scores >= last, scores, 0)
