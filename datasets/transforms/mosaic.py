"""Four pictures in one (Bochkovskiy et al. 2020, YOLOv4, section 3.3 and figure 3).

A point divides the network's input into four tiles, and each tile shows a part of another picture.
So an object is seen smaller and out of its context, and a batch holds four times as many pictures.
"""

from collections.abc import Sequence

import numpy as np

from ..images import REDUCTIONS, ImageFile
from .apply_transform import draw_placement, move_objects, seed_operation
from .color import ColourDistortion
from .detection import check_option
from .geometry import Objects, Rect, place
from .quiet_albumentations import A

TILES = 4

Tile = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels of the network's input."""


class Mosaic:
    """Makes one picture of four; in training a data module uses it in place of its transform.

    A tile is filled without gaps: its picture is thought of as stretched to the network's input,
    as evaluation sees it, shrunk by a random scale, but never to less than the tile, and the tile
    shows a random part of it. Each part is decoded no larger than needed, mirrored, and distorted
    in its colours by itself.

    Objects are kept as in `SSDAugment`: those whose centre is seen, clipped to the tile, if at
    least a pixel of each side is left; crowd regions as long as any of them is seen.

    Args:
        p: Chance of a mosaic; else the picture goes through the training transform alone.
        last_epochs: Epochs at the end of the training that have no mosaics, so that it ends on
            pictures like those of evaluation (Ge et al. 2021, YOLOX, section 2.1: 15 of 300).
        centre: Range of the dividing point, as a fraction of each side.
        scale: Range of the size at which pictures are shown, relative to evaluation.
        aspect: Range of the factor on width to height.
        flip_p: Chance to mirror a part left to right.
        fill_rgb: The colour of the pixel that rounding may leave free at an edge.
        photometric: As for `SSDAugment`; null is `ColourDistortion`.
        max_reduce: The smallest fraction 1/max_reduce at which a JPEG may be decoded.
        min_resolution: Decoded pixels for each pixel of the output that are enough.

    Raises:
        DataError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        p: float = 1.0,
        last_epochs: int = 0,
        centre: tuple[float, float] = (0.3, 0.7),
        scale: tuple[float, float] = (0.4, 1.0),
        aspect: tuple[float, float] = (0.75, 1.3333),
        flip_p: float = 0.5,
        fill_rgb: tuple[int, int, int] = (123, 117, 104),
        photometric: A.BasicTransform | A.BaseCompose | None = None,
        max_reduce: int = 8,
        min_resolution: float = 0.7,
    ) -> None:
        check_option("p", p, 0 <= p <= 1)
        check_option("last_epochs", last_epochs, last_epochs >= 0)
        check_option("centre", centre, 0 < centre[0] <= centre[1] < 1)
        check_option("scale", scale, 0 < scale[0] <= scale[1])
        check_option("aspect", aspect, 0 < aspect[0] <= 1 <= aspect[1])
        check_option("flip_p", flip_p, 0 <= flip_p <= 1)
        check_option("fill_rgb", fill_rgb, all(0 <= value <= 255 for value in fill_rgb))
        check_option("max_reduce", max_reduce, max_reduce in REDUCTIONS)
        check_option("min_resolution", min_resolution, min_resolution > 0)
        self.p = p
        self.last_epochs = last_epochs
        self.centre = centre
        self.scale = scale
        self.aspect = aspect
        self.flip_p = flip_p
        self.fill_rgb = fill_rgb
        self.photometric = ColourDistortion() if photometric is None else photometric
        self.min_resolution = min_resolution
        self._reductions = tuple(r for r in REDUCTIONS if r <= max_reduce)

    def divide(self, size_hw: tuple[int, int], rng: np.random.Generator) -> list[Tile]:
        """Draw the point that divides the output.

        Args:
            size_hw: Height and width of the output in pixels, each at least 2.
            rng: The only source of randomness.

        Returns:
            The tiles: top left, top right, bottom left, bottom right. None is empty.
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
        """Read the part of a picture that a tile shows.

        Args:
            tile: Where the part goes.
            image: The file.
            objects: Its objects, in pixels of the whole picture.
            size_hw: Size of the output in pixels.
            rng: The only source of randomness.

        Returns:
            (h, w, 3) uint8 RGB of the tile's size, and the objects in pixels of the output.

        Raises:
            DataError: The picture cannot be read.
        """
        left, top, right, bottom = tile
        crop = self._sample(tile, image.size_hw, size_hw, rng)
        placement = place(
            crop,
            image.size_hw,
            (bottom - top, right - left),
            mirror=bool(rng.random() < self.flip_p),
            reductions=self._reductions,
            min_resolution=self.min_resolution,
        )
        seed_operation(self.photometric, rng)
        pixels = draw_placement(image, placement, self.photometric, self.fill_rgb)
        seen = move_objects(objects, crop, placement)
        offset = np.array([left, top, left, top], np.float32)
        return pixels, seen._replace(boxes=seen.boxes + offset)

    def _sample(
        self,
        tile: Tile,
        picture_hw: tuple[int, int],
        size_hw: tuple[int, int],
        rng: np.random.Generator,
    ) -> Rect:
        """The part of the picture, in its pixels, that fills the tile."""
        scale, ratio = rng.uniform(*self.scale), np.sqrt(rng.uniform(*self.aspect))
        spans = []
        for axis, factor in ((0, scale * ratio), (1, scale / ratio)):  # x, y
            shown = (tile[axis + 2] - tile[axis]) / (size_hw[1 - axis] * factor)
            extent = min(shown, 1.0) * picture_hw[1 - axis]
            start = rng.uniform(0.0, 1.0) * (picture_hw[1 - axis] - extent)
            spans.append((float(start), float(start + extent)))
        (left, right), (top, bottom) = spans
        return left, top, right, bottom

    @staticmethod
    def join(
        tiles: Sequence[Tile],
        parts: Sequence[tuple[np.ndarray, Objects]],
        size_hw: tuple[int, int],
    ) -> tuple[np.ndarray, Objects]:
        """Put the parts together.

        Args:
            tiles: From `divide`.
            parts: From `fill`, one for each tile.
            size_hw: Size of the output in pixels.

        Returns:
            (h, w, 3) uint8 RGB and the objects of all parts in its pixels.
        """
        canvas = np.empty((*size_hw, 3), np.uint8)
        for (left, top, right, bottom), (pixels, _) in zip(tiles, parts, strict=True):
            canvas[top:bottom, left:right] = pixels
        columns = zip(*(objects for _, objects in parts), strict=True)
        return canvas, Objects(*(np.concatenate(column) for column in columns))
