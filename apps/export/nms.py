"""Detection operators that can be exported: non-maximum suppression (NMS) and RoIAlign.

``heads.detection.postprocess`` looks at as many candidates as it takes, which no exported graph
can. Here every anchor is looked at, and one operator, ``multiclass_nms``, decides which scores
survive. Each format says how it runs that operator: ONNX has its own for it, and ``DECOMPOSITIONS``
has public tensor operations for formats without one.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, library, nn
from torchvision.ops import nms

from ...datasets.types import PADDING_LABEL, Detections
from ...heads.detection.boxes import BoxCoder, clip_boxes, pairwise_iou
from ...heads.detection.faster_rcnn_heads import Proposals, ProposalSelection, RPNOutput
from ...heads.detection.postprocess import PostProcess

DENSE_CANDIDATES = 1024
"""Best candidates of an image, all groups together, that the tensor operations look at."""
DENSE_ROUNDS = 32
"""Longest chain of boxes, each hiding the next, that the tensor operations follow to its end."""


@library.custom_op("mobilevision::multiclass_nms", mutates_args=())
def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best of what greedy NMS leaves in each group of each image.

    Args:
        boxes: (B, A, 4) float, xyxy.
        scores: (B, A, G) float: the boxes' scores in each of G groups, such as classes.
        iou_threshold: A box goes if it overlaps a better one of its group by more than this.
        score_threshold: Boxes must score more than this; at least 0.
        candidates: Only that many of the best boxes of each group are looked at.
        wanted: Boxes of each image, all groups together; at most A * G.

    Returns:
        Scores (B, wanted) float, falling, 0 where there is nothing more; the boxes and the groups
        that they are of, (B, wanted) int64 each, any where there is nothing.
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
    """``multiclass_nms`` as tensor operations of fixed shapes, for formats without NMS.

    The answers are the same up to ``DENSE_CANDIDATES`` boxes above the threshold and
    ``DENSE_ROUNDS``.
    """
    count, flat = scores.shape[2], scores.flatten(1)
    looked_at = min(max(DENSE_CANDIDATES, wanted), flat.shape[1])
    best, index = flat.topk(looked_at, dim=1)  # (B, M), falling
    rows, groups = index // count, index % count
    chosen = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    later = torch.ones(looked_at, looked_at, device=boxes.device).tril(-1)  # [worse, better]
    rivals = (groups[:, :, None] == groups[:, None, :]).to(best.dtype) * later
    hidden_by = rivals * (pairwise_iou(chosen, chosen) > iou_threshold).to(best.dtype)
    alive = ((best > score_threshold) & (rivals.sum(dim=2) < candidates)).to(best.dtype)
    kept = alive
    for _ in range(DENSE_ROUNDS):
        kept = alive * ((hidden_by @ kept[..., None])[..., 0] < 0.5).to(best.dtype)
    front, places = (best * kept).topk(wanted, dim=1)
    return front, rows.gather(1, places), groups.gather(1, places)


MULTICLASS_NMS = torch.ops.mobilevision.multiclass_nms.default
"""The operator as it stands in exported programs."""
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
    """``torchvision.ops.roi_align`` by ``grid_sample``, for formats that have only that.

    The same for boxes within the image, in the order of the images and as many of each, as
    ``RoIHead`` gives them.

    Args:
        features: (B, C, H, W).
        rows: (B x P, 5): position of the image (not looked at), then xyxy in pixels of it.
        spatial_scale: From those to cells of the features.
        pooled_height: Rows of the output.
        pooled_width: Columns.
        sampling_ratio: Samples in each direction that a cell of the output is the mean of.
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
    places = torch.stack(
        [
            (x * (2 / width) - 1)[:, None, :].expand(shape),
            (y * (2 / height) - 1)[:, :, None].expand(shape),
        ],
        dim=-1,
    )
    samples = F.grid_sample(
        features, places.view(batch, -1, across, 2), padding_mode="border", align_corners=False
    )
    by_box = samples.view(batch, channels, -1, down, across).transpose(1, 2)
    return F.avg_pool2d(by_box.reshape(-1, channels, down, across), sampling_ratio)


class ExportablePostProcess(nn.Module):
    """The answers of a ``PostProcess``, from operations that can be exported.

    Args:
        original: Its thresholds and numbers are taken.
    """

    def __init__(self, original: PostProcess) -> None:
        super().__init__()
        self.limits = (original.iou_threshold, original.score_threshold)
        self.candidates = original.candidates_per_class
        self.max_detections = original.max_detections

    def forward(self, boxes: Tensor, scores: Tensor, size_hw: tuple[int, int]) -> Detections:
        """As ``PostProcess``: boxes (B, A, 4) or (B, A, C, 4), scores (B, A, C)."""
        boxes = clip_boxes(boxes.float(), size_hw)
        count, classes = scores.shape[1:]
        if boxes.ndim == 3:
            wanted = min(self.max_detections, count * classes)
            best, row, label = multiclass_nms(
                boxes, scores.float(), *self.limits, self.candidates, wanted
            )
        else:
            boxes, best, row = self._with_own_boxes(
                boxes.transpose(1, 2), scores.float().transpose(1, 2)
            )
            label = row // count
        valid = best > 0
        return Detections(
            boxes.gather(1, row[..., None].expand(-1, -1, 4)) * valid[..., None],
            best,
            torch.where(valid, label, PADDING_LABEL),
        )

    def _with_own_boxes(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, C * A, 4), and the best of all classes with their places among them.

        Args:
            boxes: (B, C, A, 4); a class is then an image of its own.
            scores: (B, C, A).
        """
        classes, count = scores.shape[1:]
        each = min(self.max_detections, count)
        of_class, place, _ = multiclass_nms(
            boxes.reshape(-1, count, 4), scores.reshape(-1, count, 1),
            *self.limits, self.candidates, each,
        )  # fmt: skip
        wanted = min(self.max_detections, count * classes)
        best, which = of_class.reshape(-1, classes * each).topk(wanted, dim=1)
        first = torch.arange(classes, device=boxes.device)[:, None] * count
        places = (place.reshape(-1, classes, each) + first).reshape(-1, classes * each)
        return boxes.reshape(-1, classes * count, 4), best, places.gather(1, which)


class ExportableProposals(nn.Module):
    """The answers of a ``ProposalSelection``, from operations that can be exported.

    Args:
        original: Its thresholds and numbers are taken.
    """

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
        # They are sorted: their places serve as scores, which no two share.
        places = torch.arange(total, 0, -1, dtype=torch.float32, device=boxes.device)
        wanted = min(self.count, total)
        best, index, _ = multiclass_nms(
            boxes, (places * large)[..., None], self.iou_threshold, 0.0, total, wanted
        )
        kept = torch.zeros_like(boxes[..., 0]).scatter_add(1, index, (best > 0).to(boxes.dtype))
        # What was kept comes first, in its order, then the others in theirs.
        _, front = (places + kept * float(total)).topk(wanted, dim=1)
        chosen = boxes.gather(1, front[..., None].expand(-1, -1, 4))
        return Proposals(chosen, kept.gather(1, front) > 0)


def make_exportable(network: nn.Module) -> nn.Module:
    """Replace the post-processing and proposals of a network, at any depth, by their twins here."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            twin = _TWINS.get(type(child))
            if twin is not None:
                setattr(module, name, twin(child))
    return network


_TWINS = {PostProcess: ExportablePostProcess, ProposalSelection: ExportableProposals}


def _best_of_group(scores: Tensor, candidates: int) -> Tensor:
    """Scores (B, A, G) with 0 for all but the best ``candidates`` of each group."""
    if scores.shape[1] <= candidates:
        return scores
    last = scores.topk(candidates, dim=1).values[:, -1:]
    return torch.where(scores >= last, scores, 0)
