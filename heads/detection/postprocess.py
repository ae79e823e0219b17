"""From scores at anchors to detections: non-maximum suppression of the whole batch at once.

Suppression goes class by class and from the best score down, so what happens to a candidate depends
only on better candidates. The best ``max_detections`` of an image are therefore decided once enough
of its best candidates have been looked at; there is no need to look at all of them.
"""

import torch
from torch import Tensor, nn

from ...datasets.types import PADDING_LABEL, Detections
from .boxes import clip_boxes, pairwise_iou

FIRST_LOOK = 4  # candidates first looked at, for each detection wanted


class PostProcess(nn.Module):
    """Threshold, per-class greedy non-maximum suppression, best detections of each image.

    Args:
        score_threshold: Candidates must score more than this.
        iou_threshold: A candidate goes if it overlaps a better one of its class by more than this.
        max_detections: Detections of an image, all classes together.
        candidates_per_class: Only that many of the best candidates of each class of an image are
            looked at.
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
        """Return a batch of Detections with K = ``max_detections`` rows for each image.

        Args:
            boxes: (B, A, 4) float, xyxy pixels; clipped to the picture before suppression.
            scores: (B, A, C) float in [0, 1], without a background column.
            size_hw: Height and width of the network's input in pixels.
        """
        boxes, scores = clip_boxes(boxes.float(), size_hw), scores.float()
        total = scores.shape[1] * scores.shape[2]
        looked_at = min(total, FIRST_LOOK * self.max_detections)
        while True:
            found, undecided = self._suppress(boxes, scores, looked_at)
            if looked_at == total or not undecided.any():
                return found
            looked_at = min(total, 4 * looked_at)

    def _suppress(self, boxes: Tensor, scores: Tensor, looked_at: int) -> tuple[Detections, Tensor]:
        """Detections from the best ``looked_at`` candidates, and (B,) whether more could matter."""
        num_classes = scores.shape[2]
        best, index = scores.flatten(1).topk(looked_at, dim=1)  # (B, M), falling scores
        labels = index % num_classes
        candidates = boxes.gather(1, (index // num_classes)[..., None].expand(-1, -1, 4))
        same_class = labels[:, :, None] == labels[:, None, :]
        better = torch.ones_like(same_class[0]).triu(1)  # better[i, j]: i comes before j
        rank_in_class = (same_class & better).sum(dim=1)
        above = best > self.score_threshold
        alive = above & (rank_in_class < self.candidates_per_class)
        beats = (pairwise_iou(candidates, candidates) > self.iou_threshold) & same_class & better
        kept = greedy_suppression(beats, alive)
        undecided = above[:, -1] & (kept.sum(dim=1) < self.max_detections)
        return self._best(candidates, best, labels, kept), undecided

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


def greedy_suppression(beats: Tensor, alive: Tensor) -> Tensor:
    """Return which candidates (B, M) greedy suppression keeps.

    Candidate j goes if a kept candidate i beats it. Applying that rule to all candidates at once
    settles at least one more of them each round (the first i rounds settle the first i), and in
    practice all within a few rounds; what it settles on is the sequential answer.

    Args:
        beats: (B, M, M) bool, ``beats[b, i, j]`` only for i < j.
        alive: (B, M) bool, the candidates that take part.
    """
    kept = alive
    while True:
        beaten = (beats & kept[:, :, None]).any(dim=1)
        settled = alive & ~beaten
        if torch.equal(settled, kept):
            return kept
        kept = settled
