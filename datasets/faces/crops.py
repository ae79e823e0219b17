"""Crops of faces for attribute networks, fixed for evaluation and random for training."""

from typing import Protocol

import numpy as np

from ..errors import DataError
from ..images import ImageFile
from ..transforms.apply_transform import distort_colors
from ..transforms.geometry import MIRRORED
from ..transforms.quiet_albumentations import A
from .alignment import Jitter, crop_face

_ERASED_AREA = (0.02, 0.15)


class FaceCropping(Protocol):
    """The transform that a data module applies to each image."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the crop in pixels."""
        ...

    def __call__(
        self, image: ImageFile, landmarks: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and return the crop (h, w, 3) uint8 RGB and its landmarks (5, 2) float32.

        ``landmarks`` (5, 2) are px; where they are not finite, the image is a face already,
        framed as CelebA's. An image that cannot be read is a `DataError`.
        """
        ...


class FaceCrop:
    """The crop of evaluation.

    Args:
        size_hw: Height and width in px; no wider than high.

    Raises:
        DataError: It is wider, or not positive.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = _checked_size(size_hw)

    def __call__(
        self, image: ImageFile, landmarks: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `FaceCropping`; ``rng`` is not used."""
        del rng
        return crop_face(image.read(), landmarks, self.size_hw)


class RandomFaceCrop:
    """The crop of training: jittered, mirrored, with distorted colors and an erased part.

    Args:
        size_hw: Height and width in px; no wider than high.
        turn_deg: The most that it is turned, in degrees, either way.
        scale: Range of the factor on its size; drawn on a logarithmic scale.
        shift: The most that it is moved, either way on both axes, in heights of the crop.
        flip_p: Chance to mirror left to right; left and right landmarks are swapped then.
        photometric: Any albumentations operation on colors, such as
            ``datasets.transforms.color.ColorDistortion``; null is none. Hair and skin are
            attributes, so do not change their hue.
        erase_p: Chance to fill a rectangle with the crop's mean color (Zhong et al. 2020,
            "Random Erasing Data Augmentation"), of 2 to 15 % of the area.
    """

    def __init__(
        self,
        size_hw: tuple[int, int],
        turn_deg: float = 10.0,
        scale: tuple[float, float] = (0.9, 1.1),
        shift: float = 0.04,
        flip_p: float = 0.5,
        photometric: A.BasicTransform | None = None,
        erase_p: float = 0.0,
    ) -> None:
        self.size_hw = _checked_size(size_hw)
        if turn_deg < 0 or shift < 0 or not 0 < scale[0] <= scale[1]:
            raise DataError(
                f"turn_deg={turn_deg} and shift={shift} must be at least 0, scale={scale} a rising "
                "range above 0."
            )
        if not (0 <= flip_p <= 1 and 0 <= erase_p <= 1):
            raise DataError(f"flip_p={flip_p} and erase_p={erase_p} must lie in [0, 1].")
        self.turn_deg = turn_deg
        self.scale = scale
        self.shift = shift
        self.flip_p = flip_p
        self.photometric = photometric
        self.erase_p = erase_p

    def __call__(
        self, image: ImageFile, landmarks: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `FaceCropping`; also a DataError if ``photometric`` changes shape or dtype."""
        turn_deg = float(rng.uniform(-self.turn_deg, self.turn_deg))
        scale = float(np.exp(rng.uniform(*np.log(self.scale))))
        shift_x, shift_y = rng.uniform(-self.shift, self.shift, 2).tolist()
        jitter = Jitter(turn_deg, scale, (shift_x, shift_y))
        crop, points = crop_face(image.read(), landmarks, self.size_hw, jitter)
        if rng.random() < self.flip_p:
            crop, points = mirrored(crop, points)
        if self.photometric is not None:
            crop = distort_colors(self.photometric, crop, rng)
        if rng.random() < self.erase_p:
            _erase(crop, rng)
        return crop, points


def mirrored(crop: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror a crop (h, w, 3) and its landmarks (5, 2), and swap left and right landmarks."""
    points = landmarks[list(MIRRORED)].copy()
    points[:, 0] = crop.shape[1] - 1 - points[:, 0]
    return np.ascontiguousarray(crop[:, ::-1]), points


def _erase(crop: np.ndarray, rng: np.random.Generator) -> None:
    height, width = crop.shape[:2]
    area = rng.uniform(*_ERASED_AREA) * height * width
    shape = np.exp(rng.uniform(np.log(0.5), np.log(2.0)))
    h = int(np.clip(np.sqrt(area * shape), 1, height))
    w = int(np.clip(np.sqrt(area / shape), 1, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop[top : top + h, left : left + w] = crop.mean(axis=(0, 1)).round()


def _checked_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    height, width = size_hw
    if width < 1 or height < width:
        raise DataError(
            f"size_hw={tuple(size_hw)}: a face crop is at least as high as wide, such as (160, 128)"
        )
    return height, width
