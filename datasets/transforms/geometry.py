"""Geometry of crops, expansions, mirroring and resizing, without any pixels.

Coordinates are continuous: the first pixel covers [0, 1), an image of width W ends at W.
"""

import math
from typing import NamedTuple, Self

import numpy as np

MIRRORED = (1, 0, 2, 4, 3)
"""Order of the landmarks in a mirrored image, where left becomes right."""
MIN_BOX_PX = 1.0
"""Objects that end up narrower or lower than this many pixels are dropped."""

Rect = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Objects(NamedTuple):
    """The objects of one image."""

    boxes: np.ndarray
    """(N, 4) float32, xyxy, absolute pixels."""
    labels: np.ndarray
    """(N,) int64, class index."""
    crowd: np.ndarray
    """(N,) bool; True marks a region to ignore, not an object."""
    landmarks: np.ndarray | None = None
    """(N, 5, 2) float32, x and y in the same pixels: eyes, nose, corners of the mouth, as seen in
    the image left before right; NaN where not annotated. None of data without landmarks."""

    def select(self, rows: np.ndarray) -> Self:
        """Keep some rows: a (N,) bool mask or an (M,) integer index."""
        return self._make(None if column is None else column[rows] for column in self)


def scaled(objects: Objects, factors: np.ndarray) -> Objects:
    """Multiply boxes and landmarks by the factors (2,) of x and y."""
    points = objects.landmarks
    return objects._replace(
        boxes=(objects.boxes * np.tile(factors, 2)).astype(np.float32),
        landmarks=None if points is None else (points * factors).astype(np.float32),
    )


class Placement(NamedTuple):
    """The part of a decoded image and the part of the output that it fills, in whole pixels.

    Whole pixels make the resampling a plain resize of a window, a third of the cost of an affine
    warp, and exact for boxes: they are mapped from window to target, not from the sampled crop.
    """

    reduce: int
    """The fraction 1/reduce at which the image is decoded."""
    window: tuple[int, int, int, int]
    """Left, top, right, bottom in the decoded image."""
    target: tuple[int, int, int, int]
    """Left, top, right, bottom in the output, before mirroring."""
    size_hw: tuple[int, int]
    """Height and width of the output."""
    mirror: bool
    """True if the output is flipped left to right at the end."""

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and offset (2,) of x and y, from the whole image to the output."""
        (left, top, right, bottom), (x0, y0, x1, y1) = self.window, self.target
        # As pixels are resized: from the window to the target, not from the sampled crop.
        x_scale, y_scale = (x1 - x0) / (right - left), (y1 - y0) / (bottom - top)
        offset = np.array([x0 - left * x_scale, y0 - top * y_scale])
        return np.array([x_scale, y_scale]) / self.reduce, offset

    def move_landmarks(self, points: np.ndarray) -> np.ndarray:
        """Map landmarks (N, 5, 2) of the whole image to the output; they may leave it."""
        factor, offset = self._affine()
        moved = points * factor + offset
        if self.mirror:
            moved = moved[:, list(MIRRORED)]
            moved[..., 0] = self.size_hw[1] - moved[..., 0]
        return moved.astype(np.float32)

    def move(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes (N, 4) float32, xyxy, of the whole image to the output, and clip them."""
        factor, offset = self._affine()
        x0, y0, x1, y1 = self.target
        moved = boxes * np.tile(factor, 2) + np.tile(offset, 2)
        moved = np.minimum(np.maximum(moved, [x0, y0, x0, y0]), [x1, y1, x1, y1])
        if self.mirror:
            moved[:, [0, 2]] = self.size_hw[1] - moved[:, [2, 0]]
        return moved.astype(np.float32)


class CropRule(NamedTuple):
    """The distribution of crops, and the condition to accept one."""

    min_iou: float
    """Least intersection over union of the crop and at least one box, in [0, 1]."""
    side: tuple[float, float]
    """Range of sqrt(w * h), where w and h are fractions of the canvas's sides."""
    aspect: tuple[float, float]
    """Range of w / h of those fractions."""
    tries: int
    """Crops to draw before giving up."""


def whole(size_hw: tuple[int, int]) -> Rect:
    """Return the rectangle of an image of this size."""
    return 0.0, 0.0, float(size_hw[1]), float(size_hw[0])


def sample_expansion(size_hw: tuple[int, int], max_ratio: float, rng: np.random.Generator) -> Rect:
    """Draw a canvas around the image (SSD, section 3.6, "zoom out").

    Both sides grow by one ratio from [1, max_ratio]; the paper's "16x" of the area is 4.
    """
    height, width = size_hw
    ratio = rng.uniform(1.0, max_ratio)
    left, top = -rng.uniform(0.0, 1.0, 2) * (ratio - 1.0) * (width, height)
    return left, top, left + ratio * width, top + ratio * height


def sample_crop(
    canvas: Rect,
    size_hw: tuple[int, int],
    boxes: np.ndarray,
    rule: CropRule,
    rng: np.random.Generator,
) -> Rect:
    """Draw a part of the canvas that shows enough of at least one object (SSD, section 2.2).

    A crop is accepted if one box has at least ``rule.min_iou`` with it, one box has its center
    in it, and it shows at least a pixel of the image. Without boxes only the last counts. All
    tries are drawn at once; if none is accepted, it is the canvas.

    Args:
        canvas: What to crop from; it contains the image.
        size_hw: Size of the image, which lies at [0, W) x [0, H).
        boxes: (N, 4) xyxy of the objects, without crowd regions.
        rule: What to draw and what to accept.
        rng: Source of randomness.
    """
    fractions = _sample_fractions(rule, rng)
    origin, extent = np.array(canvas[:2]), np.subtract(canvas[2:], canvas[:2])
    starts = origin + extent * rng.uniform(0.0, 1.0, (rule.tries, 2)) * (1.0 - fractions)
    crops = np.concatenate([starts, starts + extent * fractions], axis=1)
    shown = np.minimum(crops[:, 2:], size_hw[::-1]) - np.maximum(crops[:, :2], 0.0)
    accepted = (shown[:, 0] >= 1.0) & (shown[:, 1] >= 1.0)
    if len(boxes):
        centered = center_inside(boxes[None], crops[:, None])
        accepted &= centered.any(axis=1)
        accepted &= (_iou(crops, boxes) >= rule.min_iou).any(axis=1)
    first = int(accepted.argmax())
    return tuple(crops[first].tolist()) if accepted[first] else canvas


def _sample_fractions(rule: CropRule, rng: np.random.Generator) -> np.ndarray:
    """Draw (tries, 2) widths and heights as fractions of the canvas, each at most 1."""
    sides = rng.uniform(*rule.side, rule.tries)
    # Neither side may exceed the canvas: the aspect ratio stays in [side^2, 1 / side^2].
    low = np.maximum(rule.aspect[0], sides**2)
    ratios = np.sqrt(rng.uniform(low, np.maximum(low, np.minimum(rule.aspect[1], sides**-2.0))))
    return np.minimum(np.stack([sides * ratios, sides / ratios], axis=1), 1.0)


def center_inside(boxes: np.ndarray, rects: np.ndarray) -> np.ndarray:
    """Return whether the center of each box is in its rectangle; both (..., 4) xyxy, broadcast."""
    x, y = (boxes[..., 0] + boxes[..., 2]) / 2.0, (boxes[..., 1] + boxes[..., 3]) / 2.0
    return (x >= rects[..., 0]) & (x < rects[..., 2]) & (y >= rects[..., 1]) & (y < rects[..., 3])


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU (N, M) of boxes (N, 4) and (M, 4) xyxy; 0 where both are empty."""
    # Column by column: reductions over an axis of two cost several times as much.
    left, top, right, bottom = first.T[:, :, None]
    x0, y0, x1, y1 = second.T.astype(np.float64)[:, None]
    width = np.minimum(right, x1) - np.maximum(left, x0)
    height = np.minimum(bottom, y1) - np.maximum(top, y0)
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def place(
    crop: Rect,
    image_hw: tuple[int, int],
    size_hw: tuple[int, int],
    *,
    mirror: bool,
    reductions: tuple[int, ...],
    min_resolution: float,
) -> Placement:
    """Place a crop in the output and choose the fraction at which the image is decoded.

    The crop shows some of the image, whose whole size is ``image_hw``; ``size_hw`` is that of
    the output. ``reductions`` are the fractions that may be used, 1 among them, and
    ``min_resolution`` the decoded pixels for each output pixel that are enough, on both axes.
    """
    scale = [size_hw[1 - axis] / (crop[axis + 2] - crop[axis]) for axis in (0, 1)]
    enough = 1.0 / (max(scale) * min_resolution)
    reduce = max((r for r in reductions if r <= enough), default=1)
    spans = [
        _place_axis(crop[axis::2], image_hw[1 - axis], size_hw[1 - axis], reduce) for axis in (0, 1)
    ]
    (left, right, x0, x1), (top, bottom, y0, y1) = spans
    return Placement(reduce, (left, top, right, bottom), (x0, y0, x1, y1), size_hw, mirror)


def _place_axis(
    crop: tuple[float, ...], length: int, size: int, reduce: int
) -> tuple[int, int, int, int]:
    """Place one axis: start and end in the decoded image, start and end in the output."""
    scale = size / (crop[1] - crop[0])
    decoded = math.ceil(length / reduce)
    start = min(max(math.floor(crop[0] / reduce), 0), decoded - 1)
    end = max(min(math.ceil(crop[1] / reduce), decoded), start + 1)
    target_start = min(max(round((start * reduce - crop[0]) * scale), 0), size - 1)
    target_end = min(round((end * reduce - crop[0]) * scale), size)
    return start, end, target_start, max(target_end, target_start + 1)
