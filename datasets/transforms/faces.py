"""Transforms of images with faces, whose shape is kept; see `Transform`."""

from typing import Any

import numpy as np

from ..images import MEAN_RGB, ImageFile, fit_within, letterbox
from .apply_transform import check_option, checked_size
from .detection import Drawing
from .geometry import Objects, Rect, scaled


class Letterbox:
    """Scale the whole image to lie within the network's input, for evaluation; every face stays.

    The image is at the top left, the rest is filled.

    Args:
        size_hw: Height and width of the result, in pixels.
        fill_rgb: The color of what the image does not cover.
    """

    keeps_shape = True
    """That of images; boxes are scaled back by `fit_within`."""

    def __init__(self, size_hw: tuple[int, int], fill_rgb: tuple[int, int, int] = MEAN_RGB) -> None:
        self.size_hw = checked_size(size_hw)
        self.fill_rgb = fill_rgb

    def __call__(
        self, image: ImageFile, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, Objects]:
        """See `Transform`; ``rng`` is not used."""
        del rng
        pixels = image.read()
        height, width = pixels.shape[:2]
        fitted = fit_within((height, width), self.size_hw)
        factors = np.array([fitted[1] / width, fitted[0] / height])
        return letterbox(pixels, self.size_hw, self.fill_rgb), scaled(objects, factors)


class SquareCrop(Drawing):
    """The augmentation of the public RetinaFace, for training.

    A square is cut out whose side is a random one of some shares of the image's shorter side, and
    which has at least one whole face in it; then colors are distorted and the square is mirrored
    and resized. Without such a square the whole image is letterboxed. A face stays, clipped, if
    its center lies in the square.

    Deng et al. 2019, Section 4.2, draw from [0.3, 1], as ``sides`` here.

    Args:
        size_hw: Height and width of the result, in pixels.
        sides: Shares of the shorter side, one of which is drawn.
        tries: Squares to draw before the whole image is used.
        **options: See `Drawing`.
    """

    def __init__(
        self,
        size_hw: tuple[int, int],
        *,
        sides: tuple[float, ...] = (0.3, 0.45, 0.6, 0.8, 1.0),
        tries: int = 250,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size_hw = checked_size(size_hw)
        check_option("sides", sides, sides and all(0 < side <= 1 for side in sides))
        check_option("tries", tries, tries >= 1)
        self.sides = tuple(sides)
        self.tries = tries

    def __call__(
        self, image: ImageFile, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, Objects]:
        """See `Transform`."""
        crop = self._sample(image.size_hw, objects.boxes[~objects.crowd], rng)
        return self._draw(image, objects, crop, self.size_hw, rng)

    def _sample(
        self, image_hw: tuple[int, int], boxes: np.ndarray, rng: np.random.Generator
    ) -> Rect:
        """Draw all squares at once and return the first with a whole face, if there are faces."""
        sides = np.maximum(rng.choice(self.sides, self.tries) * min(image_hw), 1.0)[:, None]
        starts = rng.uniform(0.0, 1.0, (self.tries, 2)) * (np.array(image_hw[::-1]) - sides)
        squares = np.concatenate([starts, starts + sides], axis=1)
        if not len(boxes):
            return tuple(squares[0].tolist())
        starts_in = boxes[None, :, :2] >= squares[:, None, :2]
        ends_in = boxes[None, :, 2:] <= squares[:, None, 2:]
        inside = np.concatenate([starts_in, ends_in], axis=2)
        accepted = np.flatnonzero((inside.sum(axis=2) == 4).sum(axis=1))
        if accepted.size:
            return tuple(squares[accepted[0]].tolist())
        longer = float(max(image_hw))
        return 0.0, 0.0, longer, longer
