"""The frame in which attribute networks see faces: with hair, hat and neck, as CelebA has them.

The frame is upright and at least as high as wide. At a shape of 5:4, such as 160 x 128 px, it is
CelebA's aligned picture (178 x 218 px) in its whole height, less two columns on either side.

Free of torch, and of what only training needs.
"""

from typing import NamedTuple

import numpy as np

from .alignment import ARCFACE_SIZE, fit_similarity, scaled_template, warp_face

_CELEBA_HW = (218, 178)
_CELEBA_LANDMARKS = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]])
"""Where the five points lie in CelebA's aligned pictures, px; published with its landmark list."""

ATTRIBUTE_TEMPLATE = (
    _CELEBA_LANDMARKS + 0.5 + ((_CELEBA_HW[0] - _CELEBA_HW[1]) / 2, 0)
) * ARCFACE_SIZE / _CELEBA_HW[0] - 0.5
"""(5, 2) float64: the same in a square of the picture's height around its middle, at 112 px."""
ATTRIBUTE_TEMPLATE.setflags(write=False)


class Jitter(NamedTuple):
    """A small change of a crop's place."""

    turn_deg: float = 0.0
    scale: float = 1.0
    shift_xy: tuple[float, float] = (0.0, 0.0)
    """In heights of the crop."""


def crop_face(
    image: np.ndarray,
    landmarks: np.ndarray | None,
    size_hw: tuple[int, int],
    jitter: Jitter | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut out a face with its surroundings; training, evaluation and use share this function.

    With landmarks it is `alignment.align_face` with `ATTRIBUTE_TEMPLATE` at the crop's height,
    less equal columns on the left and on the right. Without, the largest central part of the
    crop's shape. What lies outside the picture is black.

    Args:
        image: (H, W, 3) uint8.
        landmarks: (5, 2), px of the picture; None or not finite where they are not known.
        size_hw: Height and width of the crop in px; no wider than high.
        jitter: Change of place.

    Returns:
        The crop (h, w, 3) uint8, and the landmarks in it, (5, 2) float32, px; NaN where they are
        not known.

    Raises:
        DataError: The landmarks are all at one place.
    """
    height, width = size_hw
    known = landmarks is not None and bool(np.isfinite(landmarks).all())
    if known:
        assert landmarks is not None
        matrix = fit_similarity(landmarks, scaled_template(height, ATTRIBUTE_TEMPLATE))
    else:
        unit = min(image.shape[0] / height, image.shape[1] / width)
        middle = (np.array(image.shape[1::-1]) - 1) / 2
        matrix = np.column_stack([np.eye(2) / unit, (height - 1) / 2 - middle / unit])
    if jitter is not None:
        matrix = _jittered(matrix, jitter, height)
    left = (height - width) // 2
    crop = warp_face(image, matrix, height)[:, left : left + width]
    if not known:
        return np.ascontiguousarray(crop), np.full((5, 2), np.nan, np.float32)
    moved = np.asarray(landmarks) @ matrix[:, :2].T + matrix[:, 2] - (left, 0)
    return np.ascontiguousarray(crop), moved.astype(np.float32)


def _jittered(matrix: np.ndarray, jitter: Jitter, height: int) -> np.ndarray:
    """Turn, scale and shift what a transform makes, about the middle of the crop."""
    angle = np.deg2rad(jitter.turn_deg)
    cos, sin = jitter.scale * np.cos(angle), jitter.scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = (height - 1) / 2
    shift = turn @ (matrix[:, 2] - middle) + middle + np.array(jitter.shift_xy) * height
    return np.column_stack([turn @ matrix[:, :2], shift])
