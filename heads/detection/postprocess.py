"""From scores at anchors to detections: non-maximum suppression of the whole batch at once.

NMS goes class by class and from the best score down, so what happens to a candidate depends
only on better candidates. So the best ``max_detections`` of an image are settled once enough of its
best candidates have been processed.
"""

import torch
from torch import Tensor, nn

from ...datasets.types import PADDING_LABEL, Detections
from .boxes import clip_boxes, paired_iou

FIRST_LOOK = 4  # candidates processed first, for each detection wanted


class PostProcess(nn.Module):
    """Threshold, per-class greedy non-maximum suppression, best detections of each image.

    Args:
        score_threshold: Candidates must score more than this.
        iou_threshold: A candidate goes if it overlaps a better one of its class by more than this.
        max_detections: Detections of an image, all classes together.
        candidates_per_class: Only the best candidates of each class of an image are processed.
    """

    def __init__(
        self,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        candidates_per_class: int = 400,
    ) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self.candidates_per_class = candidates_per_class

    @torch.no_grad()
    def forward(self, boxes: Tensor, scores: Tensor, size_hw: tuple[int, int]) -> Detections:
        """Return a batch of Detections, at most ``max_detections`` rows for each image.

        Args:
            boxes: (B, A, 4) float, xyxy pixels, or (B, A, C, 4) with a box for each class; clipped
                to the image before NMS.
            scores: (B, A, C) float in [0, 1], without a background column.
            size_hw: Height and width of the network's input in pixels.
        """
        boxes, scores = clip_boxes(boxes.float(), size_hw), scores.float()
        num_images, num_anchors, num_classes = scores.shape
        total = num_anchors * num_classes
        considered = min(total, FIRST_LOOK * self.max_detections)
        images = torch.arange(num_images, device=boxes.device)[:, None]
        while True:
            best, index = scores.flatten(1).topk(considered, dim=1)  # (B, M), falling scores
            labels = index % num_classes
            row = index if boxes.ndim == 4 else index // num_classes
            candidates = boxes.flatten(1, -2).gather(1, row[..., None].expand(-1, -1, 4))
            above = best > self.score_threshold
            groups = images * num_classes + labels
            kept = self._survivors(
                candidates.flatten(0, 1), groups.flatten(), above.flatten()
            ).view_as(above)
            # More candidates matter where the last one scores enough and detections are missing.
            undecided = above[:, -1] & (kept.sum(dim=1) < self.max_detections)
            if considered == total or not undecided.any():
                return self._best(candidates, best, labels, kept)
            considered = min(total, 4 * considered)

    def _survivors(self, boxes: Tensor, groups: Tensor, above: Tensor) -> Tensor:
        """Return which candidates NMS keeps, (N,) bool; only those of one group compete.

        Args:
            boxes: (N, 4) float, xyxy.
            groups: (N,) int64, one number for each class of each image; a group's best come first.
            above: (N,) bool, the candidates above the score threshold.
        """
        which = above.nonzero().flatten()
        which = which[groups[which].argsort(stable=True)]
        rank = rank_in_run(groups[which])
        taking_part = rank < self.candidates_per_class
        worse = taking_part.nonzero().flatten()
        # All pairs within a group: candidate i of a group with each of the i better ones.
        worse = worse.repeat_interleave(rank[worse])
        better = worse - 1 - rank_in_run(worse)
        better, worse = which[better], which[worse]
        overlap = paired_iou(boxes[better], boxes[worse]) > self.iou_threshold
        alive = torch.zeros_like(above).index_fill(0, which[taking_part], True)
        return greedy_suppression(better[overlap], worse[overlap], alive)

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor) -> Detections:
        wanted = min(self.max_detections, kept.shape[1])
        # Candidates are sorted already: a stable sort brings those that were kept to the front.
        front = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :wanted]
        valid = kept.gather(1, front)
        return Detections(
            boxes.gather(1, front[..., None].expand(-1, -1, 4)) * valid[..., None],
            scores.gather(1, front) * valid,
            labels.gather(1, front).masked_fill(~valid, PADDING_LABEL),
        )


def rank_in_run(values: Tensor) -> Tensor:
    """Return how many equal values directly precede each one: [7, 7, 3, 3, 3] -> [0, 1, 0, 1, 2].

    Args:
        values: (N,) int64.
    """
    lengths = values.unique_consecutive(return_counts=True)[1]
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return torch.arange(len(values), device=values.device) - starts


def greedy_suppression(better: Tensor, worse: Tensor, alive: Tensor) -> Tensor:
    """Return which candidates (N,) greedy NMS keeps.

    A candidate is suppressed if a kept candidate beats it. Applying that rule to all at once
    settles at least the best i after i rounds, in practice all within a few rounds, with the
    result of sequential NMS.

    Args:
        better: (P,) int64, the better one of each pair of overlapping candidates.
        worse: (P,) int64, the other: it goes if the first is kept. No chain of pairs is a circle.
        alive: (N,) bool, the candidates that take part.
    """
    kept = alive
    while True:
        settled = alive.index_fill(0, worse[kept[better]], False)
        if torch.equal(settled, kept):
            return kept
        kept = settled
