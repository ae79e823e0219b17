"""Boxes: arithmetic, offsets from anchors, the anchors of SSD, and NMS, vectorized over the batch.

Boxes are xyxy in absolute pixels unless a name says otherwise.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...datasets.types import PADDING_LABEL, Detections

# exp() of a size offset is cut here, as in torchvision: a box at most 1000/16 times its anchor.
MAX_LOG_SCALE = 4.135166556742356


def pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection areas (..., N, M) of boxes a (..., N, 4) and b (..., M, 4)."""
    top_left = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    bottom_right = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (bottom_right - top_left).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def area(boxes: Tensor) -> Tensor:
    """Return the areas (...,) of boxes (..., 4); 0 for empty boxes."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union (..., N, M) of a (..., N, 4) and b (..., M, 4).

    Unlike ``torchvision.ops.box_iou`` it takes batches; the IoU with an empty box is 0.
    """
    intersection = pairwise_intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return intersection / union.clamp_min(torch.finfo(union.dtype).tiny)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union (...,) of boxes a (..., 4) each with its partner in b."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = sides.clamp_min(0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1) for boxes in (a, b)]
    union = areas[0] + areas[1] - intersection
    return intersection / union.clamp_min(torch.finfo(union.dtype).tiny)


class BoxCoder(nn.Module):
    """Boxes as offsets from anchors (Liu et al. 2016, equation 2; Ren et al. 2015, equation 2).

    dx = weight_x * (x - x_a) / w_a, dw = weight_w * log(w / w_a), likewise y and h, with centers x,
    y and sizes w, h.

    Args:
        weights: Factors of (dx, dy, dw, dh); SSD uses 10, 10, 5, 5 (variances 0.1 and 0.2).
    """

    def __init__(self, weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.weights: Tensor

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the deltas (..., 4) that turn anchors (..., 4) into boxes (..., 4)."""
        tiny = torch.finfo(boxes.dtype).eps
        sizes = (boxes[..., 2:] - boxes[..., :2]).clamp_min(tiny)
        centers = (boxes[..., 2:] + boxes[..., :2]) / 2
        anchor_sizes = anchors[..., 2:] - anchors[..., :2]
        anchor_centers = (anchors[..., 2:] + anchors[..., :2]) / 2
        offsets = (centers - anchor_centers) / anchor_sizes
        return torch.cat([offsets, torch.log(sizes / anchor_sizes)], dim=-1) * self.weights

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Return the boxes (..., 4) of deltas (..., 4) at anchors (..., 4); not clipped."""
        deltas = deltas / self.weights
        anchor_sizes = anchors[..., 2:] - anchors[..., :2]
        anchor_centers = (anchors[..., 2:] + anchors[..., :2]) / 2
        centers = deltas[..., :2] * anchor_sizes + anchor_centers
        half = torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * anchor_sizes / 2
        return torch.cat([centers - half, centers + half], dim=-1)


def clip_boxes(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) cut to an image of ``size_hw`` pixels."""
    height, width = size_hw
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp_min(0), limit)


ScoreActivation = Literal["softmax", "sigmoid"]
BACKGROUND = 0  # class k of the data is column k + 1 of the logits


class MapLayout(NamedTuple):
    """The order of the anchors of one map: cell by cell, all boxes of a cell together."""

    cells: int
    """Height times width of the map."""
    boxes_per_cell: int
    """Anchors of a cell, all with the same center."""


class SSDOutput(NamedTuple):
    """The network's output at each of A anchors, in training and in evaluation alike."""

    box_deltas: Tensor
    """(B, A, 4) encoded offsets from the anchors."""
    class_logits: Tensor
    """(B, A, num_classes + 1); column 0 is background."""
    anchors: Tensor
    """(A, 4) float32 xyxy in pixels of the network's input."""
    layout: tuple[MapLayout, ...] = ()
    """How the A anchors are spread over the maps; only ``ATSSAssigner`` reads it."""
    landmark_deltas: Tensor | None = None
    """(B, A, 5, 2) encoded offsets of landmarks; None of a detector without them."""


SizeHW = tuple[int, int]
MOST_GRIDS = 16  # that are kept, of images of as many sizes


class AnchorGrid(nn.Module):
    """Base of the anchors: the same boxes around the center of every cell of a map.

    Args:
        boxes_per_cell: Boxes at each position of each map.
    """

    def __init__(self, boxes_per_cell: Sequence[int]) -> None:
        super().__init__()
        self.boxes_per_cell = tuple(boxes_per_cell)
        self._cache: dict[tuple[SizeHW, tuple[SizeHW, ...], torch.device], Tensor] = {}

    def shapes(self, size_hw: SizeHW) -> list[list[tuple[float, float]]]:
        """Return height and width of each map's boxes as fractions of an image of ``size_hw``."""
        raise NotImplementedError

    def cells(
        self,
        size_hw: SizeHW,  # noqa: ARG002
        map_sizes_hw: Sequence[SizeHW],
    ) -> Sequence[tuple[float, float]]:
        """Return how many cells of each map fill height and width of an image of ``size_hw``."""
        return map_sizes_hw

    def layout(self, map_sizes_hw: Sequence[SizeHW]) -> tuple[MapLayout, ...]:
        """Return how the boxes are spread over maps of these sizes."""
        return tuple(
            MapLayout(height * width, boxes)
            for (height, width), boxes in zip(map_sizes_hw, self.boxes_per_cell, strict=True)
        )

    def forward(
        self, size_hw: SizeHW, map_sizes_hw: Sequence[SizeHW], device: torch.device
    ) -> Tensor:
        """Return the boxes (A, 4) float32 xyxy in pixels of an image of ``size_hw``.

        Rows run over maps, then rows of cells, then cells, then boxes of a cell; centers are at
        (i + 0.5) / cells. Boxes reach over the image's edge where their center is near it.
        """
        key = ((size_hw[0], size_hw[1]), tuple(map_sizes_hw), device)
        if key in self._cache:
            return self._cache[key]
        boxes = self._make(*key)
        if len(self._cache) >= MOST_GRIDS:
            del self._cache[next(iter(self._cache))]
        if not torch.compiler.is_exporting():  # there they have shapes and no values
            self._cache[key] = boxes
        return boxes

    @torch.inference_mode(False)  # what validation makes first has to serve training too
    def _make(self, size_hw: SizeHW, maps_hw: Sequence[SizeHW], device: torch.device) -> Tensor:
        rows = []
        parts = zip(maps_hw, self.cells(size_hw, maps_hw), self.shapes(size_hw), strict=True)
        for (map_height, map_width), (down, across), shapes in parts:
            y = (torch.arange(map_height, dtype=torch.float64) + 0.5) / down
            x = (torch.arange(map_width, dtype=torch.float64) + 0.5) / across
            rows.append(boxes_around(y, x, torch.tensor(shapes, dtype=torch.float64)))
        height, width = size_hw
        pixels = torch.tensor([width, height, width, height], dtype=torch.float64)
        return (torch.cat(rows) * pixels).float().to(device)


def boxes_around(y: Tensor, x: Tensor, shapes_hw: Tensor) -> Tensor:
    """Return boxes (H * W * S, 4) xyxy of shapes (S, 2) around the cells at y (H,) and x (W,)."""
    half = shapes_hw.flip(1) / 2
    centers = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[:, :, None]
    return torch.cat([centers - half, centers + half], dim=-1).reshape(-1, 4)


class DefaultBoxes(AnchorGrid):
    """SSD's default boxes (Liu et al. 2016, Section 2.2), as the MobileNet paper's SSD has them.

    They are TensorFlow's: scales rise linearly from ``min_scale`` to ``max_scale``, one for each
    map. The finest map has three boxes a cell: ``lowest_scale`` at ratio 1, its own scale at ratios
    2 and 1/2. The others have one for each of ``aspect_ratios`` and one of ratio 1 at the geometric
    mean of their scale and the next (the last map's next scale is 1).

    Sizes are fractions of the image's height and width, so on an image that is not square a box
    of ratio 1 has the image's own shape.

    Args:
        num_maps: How many feature maps the boxes are for.
        min_scale: Scale of the finest map.
        max_scale: Scale of the coarsest map.
        lowest_scale: Scale of the additional small box on the finest map; None gives that map the
            same boxes as the others.
        aspect_ratios: Width / height of the boxes on all maps but the finest.
    """

    def __init__(
        self,
        num_maps: int = 6,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        lowest_scale: float | None = 0.1,
        aspect_ratios: Sequence[float] = (1.0, 2.0, 1 / 2, 3.0, 1 / 3),
    ) -> None:
        step = (max_scale - min_scale) / max(num_maps - 1, 1)
        scales = [min_scale + step * index for index in range(num_maps)] + [1.0]
        shapes = []
        for scale, following in pairwise(scales):
            mean = math.sqrt(scale * following)
            shapes.append([*((scale, ratio) for ratio in aspect_ratios), (mean, 1.0)])
        if lowest_scale is not None:
            shapes[0] = [(lowest_scale, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        super().__init__([len(of_map) for of_map in shapes])
        self.shapes_hw = [
            [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for scale, ratio in of_map]
            for of_map in shapes
        ]

    def shapes(self, size_hw: SizeHW) -> list[list[tuple[float, float]]]:  # noqa: ARG002
        """See ``AnchorGrid``; the fractions are those of any image."""
        return self.shapes_hw


class MultiscaleAnchors(AnchorGrid):
    """Anchors in pixels that grow with the map's stride (Lin et al. 2017, RetinaNet, Section 4).

    The defaults are those of TensorFlow's SSD with a feature pyramid: six boxes a cell, sides of 4
    and 4 sqrt(2) strides at ratio 1, the ratios at equal area; the boxes of one ratio follow each
    other. RetinaNet has nine (three scales).

    Args:
        strides: Input pixels for each step of each map, finest first.
        scale: Side of the smallest square box, in strides.
        scales_per_octave: Sizes between one map and the next.
        aspect_ratios: Width / height.
    """

    def __init__(
        self,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        scale: float = 4.0,
        scales_per_octave: int = 2,
        aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5),
    ) -> None:
        super().__init__([scales_per_octave * len(aspect_ratios)] * len(strides))
        self.sizes_px = [
            [stride * scale * 2 ** (step / scales_per_octave) for step in range(scales_per_octave)]
            for stride in strides
        ]
        self.aspect_ratios = tuple(aspect_ratios)

    def shapes(self, size_hw: SizeHW) -> list[list[tuple[float, float]]]:
        """See ``AnchorGrid``."""
        height, width = size_hw
        return [
            [
                (size / math.sqrt(ratio) / height, size * math.sqrt(ratio) / width)
                for ratio in self.aspect_ratios
                for size in sizes
            ]
            for sizes in self.sizes_px
        ]


LandmarksOfRows = Callable[[Tensor], Tensor]
"""Rows (B, M) int64 of a batch's boxes (B, A, 4) to their landmarks (B, M, K, 2) float.

So only those of the detections are decoded."""

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
    def forward(
        self,
        boxes: Tensor,
        scores: Tensor,
        size_hw: tuple[int, int],
        landmarks: LandmarksOfRows | None = None,
    ) -> Detections:
        """Return a batch of Detections, at most ``max_detections`` rows for each image.

        Args:
            boxes: (B, A, 4) float, xyxy pixels, or (B, A, C, 4) with a box for each class; clipped
                to the image before NMS.
            scores: (B, A, C) float in [0, 1], without a background column.
            size_hw: Height and width of the network's input in pixels.
            landmarks: The landmarks that go along with boxes (B, A, 4).
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
            candidates = take_rows(boxes.flatten(1, -2), row)
            above = best > self.score_threshold
            groups = images * num_classes + labels
            kept = self._survivors(
                candidates.flatten(0, 1), groups.flatten(), above.flatten()
            ).view_as(above)
            # More candidates matter where the last one scores enough and detections are missing.
            undecided = above[:, -1] & (kept.sum(dim=1) < self.max_detections)
            if considered == total or not undecided.any():
                return self._best(candidates, best, labels, kept, row, landmarks)
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

    def _best(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        kept: Tensor,
        rows: Tensor,
        landmarks: LandmarksOfRows | None,
    ) -> Detections:
        wanted = min(self.max_detections, kept.shape[1])
        # Candidates are sorted already: a stable sort brings those that were kept to the front.
        front = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :wanted]
        valid = kept.gather(1, front)
        points = None if landmarks is None else landmarks(rows.gather(1, front))
        return Detections(
            take_rows(boxes, front) * valid[..., None],
            scores.gather(1, front) * valid,
            labels.gather(1, front).masked_fill(~valid, PADDING_LABEL),
            None if points is None else points * valid[..., None, None],
        )


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return rows (B, K) of values (B, A, ...), as (B, K, ...)."""
    flat = values.flatten(2)
    taken = flat.gather(1, rows[..., None].expand(-1, -1, flat.shape[2]))
    return taken if values.ndim == 3 else taken.unflatten(2, values.shape[2:])


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
