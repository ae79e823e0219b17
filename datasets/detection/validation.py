"""Which boxes and ids cannot be right: vectorised, so that a million boxes take a second."""

from collections.abc import Callable

import numpy as np

from ..data_errors import FaultKind, Faults

TOLERANCE_PX = 1.0
"""How far a box may reach beyond its picture, in pixels, and still be clipped without a word.

COCO writes coordinates with two decimals and tools round to whole pixels, so an overshoot below one
pixel is rounding, and more is a mistake.
"""


def first_occurrences(ids: np.ndarray) -> np.ndarray:
    """(N,) bool: True where an id of (N,) int64 occurs for the first time."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first


def check_boxes(
    xywh: np.ndarray,
    sizes_hw: np.ndarray,
    faults: Faults,
    where: Callable[[int], str],
    *,
    tolerance_px: float = TOLERANCE_PX,
) -> tuple[np.ndarray, np.ndarray]:
    """Find boxes that cannot be right, and clip the others to their pictures.

    Args:
        xywh: (K, 4) float64.
        sizes_hw: (K, 2) int64, the size of each box's picture.
        faults: where faults go.
        where: row -> the file and the annotation id, for messages.
        tolerance_px: see `TOLERANCE_PX`.

    Returns:
        The clipped boxes (K, 4) float32 xyxy, and (K,) bool: which boxes are right.

    Raises:
        DataError: a box is wrong and ``faults`` raises.
    """

    def describe(row: int) -> str:
        x, y, width, height = xywh[row]
        return f"{where(row)} has the box x={x:g} y={y:g} w={width:g} h={height:g}"

    finite = np.logical_and.reduce(np.isfinite(xywh), axis=1)
    faults.add_where(FaultKind.NOT_FINITE, ~finite, describe)
    sized = finite & (xywh[:, 2:] > 0).all(axis=1)
    faults.add_where(FaultKind.NO_SIZE, finite & ~sized, describe)
    limits_wh = sizes_hw[:, ::-1].astype(np.float64)
    corners = np.where(finite[:, None], xywh, 0.0)
    corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    clipped = np.clip(corners, 0.0, np.tile(limits_wh, 2)).astype(np.float32)
    over = np.maximum(-corners[:, :2], corners[:, 2:] - limits_wh).max(axis=1, initial=0.0)
    inside = (over <= tolerance_px) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    faults.add_where(
        FaultKind.OUTSIDE,
        sized & ~inside,
        lambda row: f"{describe(row)} in a picture of {sizes_hw[row, 1]}x{sizes_hw[row, 0]}",
    )
    return clipped, sized & inside
