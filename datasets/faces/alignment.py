"""Alignment of faces by their landmarks.

Training, evaluation and prediction share these functions: a face network recognizes only faces that
are aligned as in its training.
"""

from typing import NamedTuple

import cv2
import numpy as np

from ..errors import DataError
from ..images import stretch

ARCFACE_SIZE = 112
"""Side in px of the crop that `ARCFACE_TEMPLATE` is for."""

ARCFACE_TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
                             [41.5493, 92.3655], [70.7299, 92.2041]])  # fmt: skip
"""(5, 2) float64, x and y in px: eyes, nose, corners of the mouth, as seen in the image left
before right. The positions of ArcFace (Deng et al. 2019) at 112 px; (0, 0) is the center of the
first pixel."""
ARCFACE_TEMPLATE.setflags(write=False)


def scaled_template(size: int, template_xy: np.ndarray = ARCFACE_TEMPLATE) -> np.ndarray:
    """Scale a template (5, 2) at 112 px to a crop with a side of ``size`` px.

    Scaled about the corner of the image, not about the center of its first pixel: a crop of
    ``size`` px then shows what the 112 px crop shows once that is resized.
    """
    return (template_xy + 0.5) * (size / ARCFACE_SIZE) - 0.5


def fit_similarity(source_xy: np.ndarray, target_xy: np.ndarray) -> np.ndarray:
    """Fit rotation, scale and shift from points (K, 2) to others by least squares, K at least 2.

    The solution of Umeyama (1991) in two dimensions, where a similarity without mirroring is
    the multiplication by one complex number and a shift. Returns (2, 3) float64, for
    `cv2.warpAffine`.

    Raises:
        DataError: The points are not finite or all at one place.
    """
    source = np.asarray(source_xy, dtype=np.float64) @ (1, 1j)
    target = np.asarray(target_xy, dtype=np.float64) @ (1, 1j)
    centered = source - source.mean()
    spread = float((np.abs(centered) ** 2).sum())
    if not np.isfinite(spread) or not np.isfinite(target).all() or spread < 1e-6:
        raise DataError(
            f"landmarks {np.asarray(source_xy).tolist()}: not {len(source)} different places, so "
            "no face can be aligned by them. Correct or remove this row."
        )
    # The complex factor that minimizes sum |turn * source - target|^2.
    turn = (centered.conj() * (target - target.mean())).sum() / spread
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align_face(
    image: np.ndarray,
    landmarks_xy: np.ndarray,
    size: int = ARCFACE_SIZE,
    template_xy: np.ndarray = ARCFACE_TEMPLATE,
) -> np.ndarray:
    """Crop a face (size, size, 3) uint8 so that its landmarks lie at the template's.

    Bilinear; outside the image the crop is black. A face more than twice as large as the crop
    is averaged down first, since bilinear interpolation would skip pixels.

    Args:
        image: (H, W, 3) uint8.
        landmarks_xy: (5, 2), px, in the order of `ARCFACE_TEMPLATE`; as for `fit_similarity`.
        size: side of the crop in px.
        template_xy: (5, 2), at 112 px for any ``size``.
    """
    matrix = fit_similarity(landmarks_xy, scaled_template(size, template_xy))
    return warp_face(image, matrix, size)


def warp_face(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Crop a square by an affine transform (2, 3) of the image's pixels; see `align_face`."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.5:
        image, matrix = _averaged(image, matrix, size, max(1, int(1 / max(scale, 1e-6))))
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)


def crop_box(image: np.ndarray, box_xyxy: np.ndarray, size: int, margin_px: int) -> np.ndarray:
    """Cut a face out by its box, without turning it, and stretch it to (size, size, 3) uint8.

    As facenet-pytorch's ``extract_face``: whole pixels, and nothing outside of the image.

    Args:
        image: (H, W, 3) uint8.
        box_xyxy: (4,), px.
        size: Side of the crop in px.
        margin_px: Pixels of the crop that lie outside the box, both sides together.
    """
    low, high = np.asarray(box_xyxy, np.float64).reshape(2, 2)
    margin = margin_px * (high - low) / (size - margin_px) / 2
    limits = np.array(image.shape[1::-1])
    left, top = np.clip(low - margin, 0, limits - 1).astype(int)
    right, bottom = np.maximum(np.clip(high + margin, 0, limits).astype(int), (left + 1, top + 1))
    return stretch(np.ascontiguousarray(image[top:bottom, left:right]), (size, size))


def _averaged(
    image: np.ndarray, matrix: np.ndarray, size: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """Shrink the part of an image that a crop shows by a factor, and adapt its transform."""
    corners = np.array([[-1, -1], [size, -1], [-1, size], [size, size]], dtype=np.float64)
    inverse = np.linalg.inv(matrix[:, :2])
    seen = (corners - matrix[:, 2]) @ inverse.T
    limit = (image.shape[1], image.shape[0])
    first = np.clip(np.floor(seen.min(axis=0)) - factor, 0, limit).astype(int)
    last = np.clip(np.ceil(seen.max(axis=0)) + factor, 0, limit).astype(int)
    width, height = (last - first) // factor
    if min(width, height) < 1:
        return image, matrix
    part = image[first[1] : first[1] + height * factor, first[0] : first[0] + width * factor]
    smaller = cv2.resize(part, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    # Pixel u of the small image is centered at first + factor * (u + 0.5) - 0.5 of the whole one.
    offset = first + (factor - 1) / 2
    linear = matrix[:, :2]
    shift = matrix[:, 2] + linear @ offset
    return smaller, np.column_stack([linear * factor, shift])


_CELEBA_HW = (218, 178)
_CELEBA_LANDMARKS = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]])
"""The five points in CelebA's aligned images, px; published with its landmark list."""

ATTRIBUTE_TEMPLATE = (
    _CELEBA_LANDMARKS + 0.5 + ((_CELEBA_HW[0] - _CELEBA_HW[1]) / 2, 0)
) * ARCFACE_SIZE / _CELEBA_HW[0] - 0.5
"""(5, 2) float64: the same in a square of the image's height around its middle, at 112 px."""
ATTRIBUTE_TEMPLATE.setflags(write=False)


class Jitter(NamedTuple):
    """A small change of a crop; the shift is in heights of the crop."""

    turn_deg: float = 0.0
    scale: float = 1.0
    shift_xy: tuple[float, float] = (0.0, 0.0)


def crop_face(
    image: np.ndarray,
    landmarks: np.ndarray | None,
    size_hw: tuple[int, int],
    jitter: Jitter | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a face with its surroundings; return it with its landmarks in the crop.

    With landmarks it is `align_face` with `ATTRIBUTE_TEMPLATE` at the crop's height, without
    equal columns on the left and on the right. Without, it is the largest central part of the
    crop's shape. Outside the image the crop is black.

    Args:
        image: (H, W, 3) uint8.
        landmarks: (5, 2), px of the image; None or not finite if they are not known.
        size_hw: Height and width of the crop in px; no wider than high.
        jitter: Change of the crop.

    Returns:
        The crop (h, w, 3) uint8 and (5, 2) float32, px; NaN if they are not known.

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
    """Rotate, scale and shift the result of a transform, about the middle of the crop."""
    angle = np.deg2rad(jitter.turn_deg)
    cos, sin = jitter.scale * np.cos(angle), jitter.scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = (height - 1) / 2
    shift = turn @ (matrix[:, 2] - middle) + middle + np.array(jitter.shift_xy) * height
    return np.column_stack([turn @ matrix[:, :2], shift])
