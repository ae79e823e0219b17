"""Transforms from an image file to the input of a classifier.

As in ``detection.py``, a transform reads the image itself, and all randomness comes from the
generator that is passed to it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..errors import DataError
from ..images import IMAGENET_CROP, REDUCTIONS, ImageFile, center_crop, resize_part, stretch
from .apply_transform import check_option, checked_size, distort_colors
from .quiet_albumentations import A

_TRIES = 10


class ClassificationTransform(ABC):
    """The transform that a data module applies to each image.

    A base class and not a protocol: the command line takes a protocol with a ``__call__`` for a
    function.
    """

    size_hw: tuple[int, int]
    """Height and width of the result in pixels."""

    @abstractmethod
    def __call__(self, image: ImageFile, rng: np.random.Generator) -> np.ndarray:
        """Read an image and return it as (h, w, 3) uint8 RGB.

        Raises:
            DataError: The image cannot be read.
        """


class CenterCrop(ClassificationTransform):
    """The evaluation of ImageNet: the largest central part of the network's shape, resized.

    Args:
        size_hw: Height and width of the result, in pixels.
        fraction: Side of that part: 0.875 is the usual "resize to 256, crop 224"; 1 is the largest
            part of the network's shape.

    Raises:
        DataError: An option is out of its range; so for the following transforms.
    """

    def __init__(self, size_hw: tuple[int, int], fraction: float = IMAGENET_CROP) -> None:
        self.size_hw = checked_size(size_hw)
        check_option("fraction", fraction, 0 < fraction <= 1)
        self.fraction = fraction

    def __call__(self, image: ImageFile, rng: np.random.Generator) -> np.ndarray:
        """See `ClassificationTransform`; ``rng`` is not used."""
        del rng
        return center_crop(image.read(), self.size_hw, self.fraction)


class WholeImage(ClassificationTransform):
    """The whole image stretched to the network's size; nothing is cut off.

    Args:
        size_hw: Height and width of the result, in pixels.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = checked_size(size_hw)

    def __call__(self, image: ImageFile, rng: np.random.Generator) -> np.ndarray:
        """See `ClassificationTransform`; ``rng`` is not used."""
        del rng
        return stretch(image.read(), self.size_hw)


class RandomCrop(ClassificationTransform):
    """A random part of the image, resized, mirrored, with distorted colors (Szegedy et al. 2015).

    The MobileNet paper (Section 3.2) trains small models with less augmentation: a larger ``area``.
    The part is drawn first and the image then decoded no larger than needed.

    Args:
        size_hw: Height and width of the result, in pixels.
        area: Range of the part's share of the image's area.
        aspect: Range of its width to height, for a square network; drawn on a logarithmic scale.
        flip_p: Chance to mirror left to right.
        photometric: Any albumentations operation on colors, such as
            ``datasets.transforms.color.ColorDistortion``; null is none.
        operations: torchvision ``transforms.v2`` modules that keep size and uint8, such as
            ``RandAugment`` or ``TrivialAugmentWide``, applied last.
    """

    def __init__(
        self,
        size_hw: tuple[int, int],
        area: tuple[float, float] = (0.08, 1.0),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        flip_p: float = 0.5,
        photometric: A.BasicTransform | None = None,
        operations: Sequence[nn.Module] = (),
    ) -> None:
        self.size_hw = checked_size(size_hw)
        check_option("area", area, 0 < area[0] <= area[1] <= 1)
        check_option("aspect", aspect, 0 < aspect[0] <= aspect[1])
        check_option("flip_p", flip_p, 0 <= flip_p <= 1)
        self.area = area
        self.aspect = aspect
        self.flip_p = flip_p
        self.photometric = photometric
        self.operations = tuple(operations)

    def __call__(self, image: ImageFile, rng: np.random.Generator) -> np.ndarray:
        """See `ClassificationTransform`; operations must keep shape and dtype."""
        left, top, right, bottom = self._draw(image.size_hw, rng)
        room = min((bottom - top) / self.size_hw[0], (right - left) / self.size_hw[1])
        reduce = max([r for r in REDUCTIONS if r <= room], default=1)
        box = (left / reduce, top / reduce, right / reduce, bottom / reduce)
        pixels = resize_part(image.read(reduce), box, self.size_hw)
        if rng.random() < self.flip_p:
            pixels = pixels[:, ::-1]
        if self.photometric is not None:
            pixels = distort_colors(self.photometric, np.ascontiguousarray(pixels), rng)
        if self.operations:
            pixels = self._operate(pixels, rng, image)
        return np.ascontiguousarray(pixels)

    def _draw(
        self, image_hw: tuple[int, int], rng: np.random.Generator
    ) -> tuple[float, float, float, float]:
        """Draw left, top, right, bottom; after too many tries, the largest central part."""
        height, width = image_hw
        shape = self.size_hw[1] / self.size_hw[0]
        low, high = (math.log(ratio) for ratio in self.aspect)
        for _ in range(_TRIES):
            share = rng.uniform(*self.area) * height * width
            aspect = shape * math.exp(rng.uniform(low, high))
            w, h = math.sqrt(share * aspect), math.sqrt(share / aspect)
            if w <= width and h <= height:
                left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
                return left, top, left + w, top + h
        aspect = min(max(width / height, shape * self.aspect[0]), shape * self.aspect[1])
        w, h = min(width, height * aspect), min(height, width / aspect)
        return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2

    def _operate(
        self, pixels: np.ndarray, rng: np.random.Generator, image: ImageFile
    ) -> np.ndarray:
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        # torchvision draws from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            for operation in self.operations:
                tensor = operation(tensor)
        if tensor.dtype != torch.uint8 or tuple(tensor.shape) != (3, *self.size_hw):
            raise DataError(
                f"{image.path}: the operations made {tuple(tensor.shape)} {tensor.dtype} of it, "
                f"not {(3, *self.size_hw)} uint8: leave out Resize, ToDtype and Normalize."
            )
        return tensor.permute(1, 2, 0).numpy()


class PadCrop(ClassificationTransform):
    """Pad the image with zeros, then take a random part of its size, as usual for CIFAR.

    Args:
        size_hw: Height and width of the result, in pixels; other images are stretched to it
            first.
        padding: Pixels on each side.
        flip_p: Chance to mirror left to right.
    """

    def __init__(
        self, size_hw: tuple[int, int] = (32, 32), padding: int = 4, flip_p: float = 0.5
    ) -> None:
        self.size_hw = checked_size(size_hw)
        check_option("padding", padding, padding >= 0)
        check_option("flip_p", flip_p, 0 <= flip_p <= 1)
        self.padding = padding
        self.flip_p = flip_p

    def __call__(self, image: ImageFile, rng: np.random.Generator) -> np.ndarray:
        """See `ClassificationTransform`."""
        pixels, pad = image.read(), self.padding
        if pixels.shape[:2] != self.size_hw:
            pixels = stretch(pixels, self.size_hw)
        padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)))
        top, left = rng.integers(2 * pad + 1, size=2).tolist()
        part = padded[top : top + self.size_hw[0], left : left + self.size_hw[1]]
        return np.ascontiguousarray(part[:, ::-1] if rng.random() < self.flip_p else part)
