"""Non-maximum suppression that can be exported: the answers of ``PostProcess`` with fixed shapes.

``heads.detection.postprocess`` looks at as many candidates as it takes, which no exported graph
can. Here every anchor is looked at, and one operator decides which scores survive. Each format says
how it runs that operator: ONNX has its own for it, and ``DECOMPOSITIONS`` has public tensor
operations for formats without one.
"""

import torch
from torch import Tensor, library, nn
from torchvision.ops import nms

from ...datasets.types import PADDING_LABEL, Detections
from ...heads.detection.boxes import BoxCoder, clip_boxes, pairwise_iou
from ...heads.detection.postprocess import PostProcess
from ...heads.detection.rpn import Proposals, ProposalSelection, RPNOutput

DENSE_CANDIDATES = 1024
"""Best candidates of an image, all groups together, that the tensor operations look at."""
DENSE_ROUNDS = 32
"""Longest chain of boxes, each hiding the next, that the tensor operations follow to its end."""


@library.custom_op("mobilevision::best_survivors", mutates_args=())
def best_survivors(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best of what greedy non-maximum suppression leaves in each group of each image.

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


@best_survivors.register_fake
def _(boxes, scores, iou_threshold, score_threshold, candidates, wanted):  # noqa: ARG001
    best = scores.new_empty(scores.shape[0], wanted)
    places = torch.empty_like(best, dtype=torch.int64)
    return best, places, torch.empty_like(places)


def best_survivors_dense(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as public tensor operations of fixed shapes, for formats without suppression.

    The same up to ``DENSE_CANDIDATES`` boxes above the threshold and ``DENSE_ROUNDS``.
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


SUPPRESSION = torch.ops.mobilevision.best_survivors.default
"""The operator as it stands in exported programs."""
DECOMPOSITIONS = {SUPPRESSION: best_survivors_dense}
"""For ``ExportedProgram.run_decompositions``."""


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
            best, row, label = best_survivors(
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
            boxes: (B, C, A, 4); a class is then a picture of its own.
            scores: (B, C, A).
        """
        classes, count = scores.shape[1:]
        each = min(self.max_detections, count)
        of_class, place, _ = best_survivors(
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
        best, index, _ = best_survivors(
            boxes, (places * large)[..., None], self.iou_threshold, 0.0, total, wanted
        )
        kept = torch.zeros_like(boxes[..., 0]).scatter_add(1, index, (best > 0).to(boxes.dtype))
        # What was kept comes first, in its order, then the others in theirs.
        _, front = (places + kept * float(total)).topk(wanted, dim=1)
        chosen = boxes.gather(1, front[..., None].expand(-1, -1, 4))
        return Proposals(chosen, kept.gather(1, front) > 0)


def make_exportable(network: nn.Module) -> nn.Module:
    """Put the exportable twins in the place of a network's suppression, at any depth."""
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
