"""Transforms from an image file and its objects to the network's input.

A transform reads the image itself, because only it knows how large the image has to be decoded.
All randomness comes from the generator that is passed to it: the same state gives the same bits in
every process. Options that are out of their range are `DataError`s.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from ..images import REDUCTIONS, ImageFile, stretch
from .apply_transform import (
    Photometric,
    check_option,
    checked_size,
    draw_placement,
    large_enough,
    move_objects,
    seed_operation,
)
from .color import ColorDistortion
from .geometry import CropRule, Objects, Rect, place, sample_crop, sample_expansion, scaled, whole
from .quiet_albumentations import A


class Transform(Protocol):
    """The transform that a data module applies to each image."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the result in pixels."""
        ...

    def __call__(
        self, image: ImageFile, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, Objects]:
        """Read an image and make it the network's input, (h, w, 3) uint8 RGB, writable.

        ``objects`` are in pixels of the whole image, EXIF rotation applied; those returned
        are in pixels of the result, in their order. ``rng`` is the only source of
        randomness.

        Raises:
            DataError: The image cannot be read.
        """
        ...


class Resize:
    """Stretch the whole image to the network's size, for evaluation; every object stays.

    SSD does not keep the aspect ratio.

    Args:
        size_hw: Height and width of the result, in pixels.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = checked_size(size_hw)

    def __call__(
        self, image: ImageFile, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, Objects]:
        """See `Transform`; ``rng`` is not used."""
        del rng
        height, width = self.size_hw
        pixels = image.read()
        factors = np.array([width / pixels.shape[1], height / pixels.shape[0]])
        return stretch(pixels, self.size_hw), scaled(objects, factors)


class Drawing:
    """The options that `SSDAugment` and `Mosaic` share: mirroring, colors, decoding.

    Args:
        flip_p: Chance to mirror left to right.
        fill_rgb: The color of what no image covers; the default is the mean color.
        photometric: Any albumentations operation on colors; null is `ColorDistortion` as in SSD's
            paper, ``albumentations.NoOp`` is none.
        max_reduce: The smallest fraction 1/max_reduce at which a JPEG may be decoded; 1 always
            decodes whole.
        min_resolution: Decoded pixels for each pixel of the output that are enough. 0.7 takes
            the fraction that is nearest to the output's size on a logarithmic scale.
    """

    def __init__(
        self,
        *,
        flip_p: float = 0.5,
        fill_rgb: tuple[int, int, int] = (123, 117, 104),
        photometric: Photometric | None = None,
        max_reduce: int = 8,
        min_resolution: float = 0.7,
    ) -> None:
        check_option("flip_p", flip_p, 0 <= flip_p <= 1)
        check_option(
            "fill_rgb", fill_rgb, len(fill_rgb) == 3 and all(0 <= c <= 255 for c in fill_rgb)
        )
        check_option("max_reduce", max_reduce, max_reduce in REDUCTIONS)
        check_option("min_resolution", min_resolution, min_resolution > 0)
        self.flip_p = flip_p
        self.fill_rgb = fill_rgb
        self.photometric = ColorDistortion() if photometric is None else photometric
        self.min_resolution = min_resolution
        self._reductions = tuple(r for r in REDUCTIONS if r <= max_reduce)

    def _draw(
        self,
        image: ImageFile,
        objects: Objects,
        crop: Rect,
        size_hw: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Objects]:
        """Resize a crop to the output, mirror it at random and distort its colors."""
        placement = place(
            crop, image.size_hw, size_hw, mirror=bool(rng.random() < self.flip_p),
            reductions=self._reductions, min_resolution=self.min_resolution,
        )  # fmt: skip
        pixels = draw_placement(image, placement, self.photometric, self.fill_rgb, rng)
        return pixels, move_objects(objects, crop, placement)


class SSDAugment(Drawing):
    """The augmentation of SSD (Liu et al. 2016, sections 2.2 and 3.6), for training.

    Zoom out onto a canvas of the mean color, crop with a least IoU, mirror, resize, distort the
    colors. All geometry is drawn first, from sizes and boxes alone; then the image is decoded
    no larger than needed and resized once. Colors are distorted at the output's size and not on
    the canvas, which keeps the mean color as in the paper.

    An object stays, clipped, if its center lies in the crop and at least a pixel of each side is
    left. Crowd regions stay as long as they are visible, but do not influence the crop.

    Args:
        size_hw: Height and width of the result, in pixels.
        expand_p: Chance to zoom out.
        expand_max_ratio: The most that both sides grow by; 4 is the paper's "16x" of the area.
        crop_min_iou: Conditions on a crop, one of which is drawn: null is the whole image, 0 any
            part, other values the least IoU with at least one object.
        crop_side: Range of a crop's size as a fraction of the canvas, as sqrt(w * h); 0.3 is the
            paper's 0.1 of the area.
        crop_aspect: Range of a crop's width to height, as fractions of the canvas.
        crop_tries: Crops to draw before the whole image is used.
        **options: See `Drawing`.
    """

    def __init__(
        self,
        size_hw: tuple[int, int],
        *,
        expand_p: float = 0.5,
        expand_max_ratio: float = 4.0,
        crop_min_iou: tuple[float | None, ...] = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        crop_side: tuple[float, float] = (0.3, 1.0),
        crop_aspect: tuple[float, float] = (0.5, 2.0),
        crop_tries: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size_hw = checked_size(size_hw)
        check_option("expand_p", expand_p, 0 <= expand_p <= 1)
        check_option("expand_max_ratio", expand_max_ratio, expand_max_ratio >= 1)
        ious = [iou for iou in crop_min_iou if iou is not None]
        check_option(
            "crop_min_iou", crop_min_iou, crop_min_iou and all(0 <= iou <= 1 for iou in ious)
        )
        check_option("crop_side", crop_side, 0 < crop_side[0] <= crop_side[1] <= 1)
        check_option("crop_aspect", crop_aspect, 0 < crop_aspect[0] <= 1 <= crop_aspect[1])
        check_option("crop_tries", crop_tries, crop_tries >= 1)
        self.expand_p = expand_p
        self.expand_max_ratio = expand_max_ratio
        self.crop_min_iou = tuple(crop_min_iou)
        self.crop_side = crop_side
        self.crop_aspect = crop_aspect
        self.crop_tries = crop_tries

    def __call__(
        self, image: ImageFile, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, Objects]:
        """See `Transform`."""
        crop = self._sample(image.size_hw, objects.boxes[~objects.crowd], rng)
        return self._draw(image, objects, crop, self.size_hw, rng)

    def _sample(
        self, image_hw: tuple[int, int], boxes: np.ndarray, rng: np.random.Generator
    ) -> Rect:
        canvas = whole(image_hw)
        if rng.random() < self.expand_p:
            canvas = sample_expansion(image_hw, self.expand_max_ratio, rng)
        min_iou = self.crop_min_iou[rng.integers(len(self.crop_min_iou))]
        if min_iou is None:
            return canvas
        rule = CropRule(min_iou, self.crop_side, self.crop_aspect, self.crop_tries)
        return sample_crop(canvas, image_hw, boxes, rule, rng)


class AlbumentationsPipeline:
    """A list of albumentations operations, made reproducible.

    Results of another size are stretched to ``size_hw`` at the end. Boxes are clipped to the
    image and must then measure at least a pixel on each side. Landmarks are left out.

    Args:
        size_hw: Height and width of the result, in pixels.
        transforms: Operations, applied in this order; a YAML names them by ``class_path``. They
            must leave uint8 pixels: the model normalizes.
    """

    def __init__(
        self, size_hw: tuple[int, int], transforms: list[A.BasicTransform | A.BaseCompose]
    ) -> None:
        self.size_hw = checked_size(size_hw)
        self.transforms = list(transforms)
        # Labels stay in their own arrays: albumentations would carry them as floats.
        self._compose = A.Compose(
            [*self.transforms, A.Resize(*self.size_hw)],
            bbox_params=A.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True),
        )

    def __call__(
        self, image: ImageFile, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, Objects]:
        """See `Transform`; also raises DataError where an operation fails or changes the dtype."""
        seed_operation(self._compose, rng)
        pixels, rows = image.read(), np.arange(len(objects.boxes))
        try:
            result = self._compose(image=pixels, bboxes=objects.boxes, rows=rows)
        except Exception as error:
            # Operations raise errors of any kind.
            raise DataError(f"{image.path}: an albumentations operation failed: {error}") from error
        pixels = result["image"]
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise DataError(
                f"{image.path}: the albumentations operations gave {getattr(pixels, 'dtype', None)}"
                " pixels, not uint8: leave out Normalize, ToFloat and ToTensorV2."
            )
        rows = np.asarray(result["rows"], dtype=np.int64)
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        boxes = boxes.clip(0, [*self.size_hw[::-1]] * 2)
        kept = objects.select(rows)._replace(boxes=boxes, landmarks=None)
        return np.ascontiguousarray(pixels), kept.select(large_enough(kept.boxes))


TILES = 4

Tile = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels of the network's input."""


class Mosaic(Drawing):
    """Makes one image of four; in training a data module uses it in place of its transform.

    A tile is filled without gaps: its image is stretched to the network's input, as in evaluation,
    and shrunk by a random scale, but never to less than the tile, which shows a random part of it.
    Each part is mirrored and its colors are distorted independently. Objects are kept as in
    `SSDAugment`, clipped to the tile.

    Args:
        p: Chance of a mosaic; else the image goes through the training transform alone.
        last_epochs: Epochs without mosaics at the end of the training, so that it ends on images
            like those of evaluation (Ge et al. 2021, YOLOX, section 2.1: 15 of 300).
        centre: Range of the dividing point, as a fraction of each side.
        scale: Range of the size of images relative to evaluation.
        aspect: Range of the factor on width to height.
        **options: See `Drawing`.
    """

    def __init__(
        self,
        *,
        p: float = 1.0,
        last_epochs: int = 0,
        centre: tuple[float, float] = (0.3, 0.7),
        scale: tuple[float, float] = (0.4, 1.0),
        aspect: tuple[float, float] = (0.75, 1.3333),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_option("p", p, 0 <= p <= 1)
        check_option("last_epochs", last_epochs, last_epochs >= 0)
        check_option("centre", centre, 0 < centre[0] <= centre[1] < 1)
        check_option("scale", scale, 0 < scale[0] <= scale[1])
        check_option("aspect", aspect, 0 < aspect[0] <= 1 <= aspect[1])
        self.p = p
        self.last_epochs = last_epochs
        self.centre = centre
        self.scale = scale
        self.aspect = aspect

    def divide(self, size_hw: tuple[int, int], rng: np.random.Generator) -> list[Tile]:
        """Draw the point that divides an output of at least 2 by 2 pixels; return the tiles.

        They are top left, top right, bottom left, bottom right; none is empty.
        """
        height, width = size_hw
        y, x = (min(max(round(rng.uniform(*self.centre) * side), 1), side - 1) for side in size_hw)
        return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]

    def fill(
        self,
        tile: Tile,
        image: ImageFile,
        objects: Objects,
        size_hw: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Objects]:
        """Read a part of an image for a tile of an output of ``size_hw``; see `Transform`.

        Returns (h, w, 3) uint8 RGB of the tile's size, and the objects in pixels of the
        output.
        """
        left, top, right, bottom = tile
        crop = self._sample(tile, image.size_hw, size_hw, rng)
        pixels, seen = self._draw(image, objects, crop, (bottom - top, right - left), rng)
        offset = np.array([left, top, left, top], np.float32)
        points = None if seen.landmarks is None else seen.landmarks + offset[:2]
        return pixels, seen._replace(boxes=seen.boxes + offset, landmarks=points)

    def _sample(
        self,
        tile: Tile,
        image_hw: tuple[int, int],
        size_hw: tuple[int, int],
        rng: np.random.Generator,
    ) -> Rect:
        """Draw the part of the image, in its pixels, that fills the tile."""
        scale, ratio = rng.uniform(*self.scale), np.sqrt(rng.uniform(*self.aspect))
        spans = []
        for axis, factor in ((0, scale * ratio), (1, scale / ratio)):  # x, y
            shown = (tile[axis + 2] - tile[axis]) / (size_hw[1 - axis] * factor)
            extent = min(shown, 1.0) * image_hw[1 - axis]
            start = rng.uniform(0.0, 1.0) * (image_hw[1 - axis] - extent)
            spans.append((float(start), float(start + extent)))
        (left, right), (top, bottom) = spans
        return left, top, right, bottom

    @staticmethod
    def join(
        tiles: Sequence[Tile], parts: Sequence[tuple[np.ndarray, Objects]], size_hw: tuple[int, int]
    ) -> tuple[np.ndarray, Objects]:
        """Join the parts of `fill`, one for each of the tiles of `divide`.

        Returns:
            (h, w, 3) uint8 RGB and the objects of all parts in its pixels.
        """
        canvas = np.empty((*size_hw, 3), np.uint8)
        for (left, top, right, bottom), (pixels, _) in zip(tiles, parts, strict=True):
            canvas[top:bottom, left:right] = pixels
        columns = zip(*(objects for _, objects in parts), strict=True)
        return canvas, Objects._make(
            None if column[0] is None else np.concatenate(column) for column in columns
        )
