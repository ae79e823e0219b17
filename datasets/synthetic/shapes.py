"""The classes of the generated scenes: outline, colours and surface of each."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from . import textures
from .textures import Texture

Polygon = NDArray[np.float64]
"""(N, 2) x, y of the corners; units of half an object's length, the origin at its middle."""

_SUPERSAMPLING = 4
_FRACTION_BITS = 4


class ShapeClass(NamedTuple):
    """What makes a class recognisable."""

    name: str
    outline: tuple[Polygon, ...]
    """Closed polygons, filled by the even-odd rule: a second one inside the first is a hole."""
    hues: tuple[float, ...]
    """Usual colours, in turns of the colour circle [0, 1)."""
    texture: Texture
    """Usual surface."""
    tilt: float
    """Largest rotation to either side, in radians; pi where every direction is possible."""


def _arc(radius: float, start: float, stop: float, *, x: float = 0.0) -> Polygon:
    """Points on a circle around (x, 0), from ``start`` to ``stop`` radians."""
    angle = np.linspace(start, stop, 48)
    return np.stack([x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _regular(corners: int, *, inner: float | None = None) -> Polygon:
    """Corners on the unit circle, the first one at the top; ``inner`` makes a star of them."""
    count = corners if inner is None else 2 * corners
    radius = np.ones(count)
    if inner is not None:
        radius[1::2] = inner
    angle = np.arange(count) * 2 * np.pi / count - np.pi / 2
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross(arm: float) -> Polygon:
    """A plus sign with arms ``2 * arm`` wide."""
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in _QUARTERS]
    return np.concatenate([quarter @ turn.T for turn in turns])


def _crescent(offset: float, radius: float) -> Polygon:
    """The unit circle less a circle of ``radius`` around (offset, 0)."""
    # The circles meet where x = (1 + offset^2 - radius^2) / (2 offset).
    meet_x = (1 + offset**2 - radius**2) / (2 * offset)
    meet_y = np.sqrt(1 - meet_x**2)
    outer = np.arctan2(meet_y, meet_x)
    inner = np.arctan2(meet_y, meet_x - offset)
    edge = _arc(radius, inner, 2 * np.pi - inner, x=offset)
    return np.concatenate([_arc(1.0, outer, 2 * np.pi - outer), edge[::-1]]) + np.array([0.2, 0.0])


def _flag(half_height: float, swing: float) -> Polygon:
    """A banner whose long sides wave by ``swing``."""
    x = np.linspace(-1, 1, 24)
    y = swing * np.sin(1.5 * np.pi * x)
    top, bottom = np.stack([x, y - half_height], axis=1), np.stack([x, y + half_height], axis=1)
    return np.concatenate([top, bottom[::-1]])


_QUARTERS = (0.0, np.pi / 2, np.pi, 3 * np.pi / 2)
_TURN = 2 * np.pi

SHAPES: tuple[ShapeClass, ...] = (
    ShapeClass("disk", (_arc(1, 0, _TURN),), (0.02, 0.58), textures.dots, np.pi),
    ShapeClass("ring", (_arc(1, 0, _TURN), _arc(0.55, 0, _TURN)), (0.09, 0.5), textures.plain, 0.0),
    ShapeClass("square", (0.88 * _regular(4),), (0.6, 0.36), textures.checks, np.pi),
    ShapeClass("triangle", (_regular(3),), (0.33, 0.8), textures.plain, np.pi),
    ShapeClass("star", (_regular(5, inner=0.45),), (0.14, 0.92), textures.plain, np.pi),
    ShapeClass("cross", (_cross(0.34),), (0.98, 0.47), textures.plain, np.pi),
    ShapeClass("crescent", (_crescent(0.55, 0.8),), (0.75, 0.15), textures.marble, np.pi),
    ShapeClass("flag", (_flag(0.5, 0.1),), (0.99, 0.68), textures.stripes, 0.45),
)

CLASS_NAMES: tuple[str, ...] = tuple(shape.name for shape in SHAPES)
"""Names in the order of the class index; the category id in the annotation file is index + 1."""


def place(
    outline: tuple[Polygon, ...],
    *,
    centre_xy: tuple[float, float],
    length: float,
    stretch: float,
    rotation: float,
) -> tuple[Polygon, ...]:
    """Put an outline into the picture.

    Args:
        outline: Polygons in units of half the object's length.
        centre_xy: Where the outline's origin goes, in pixels.
        length: Size of the object in pixels: what 2 units become.
        stretch: Width over height before the rotation; the area stays the same.
        rotation: Radians, clockwise on the screen.
    """
    ratio = np.sqrt(stretch)
    cos, sin = np.cos(rotation), np.sin(rotation)
    matrix = length / 2 * np.array([[cos * ratio, -sin / ratio], [sin * ratio, cos / ratio]])
    return tuple(points @ matrix.T + np.asarray(centre_xy) for points in outline)


def cover(polygons: tuple[Polygon, ...], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each pixel the polygons cover: (H, W) float32 in [0, 1].

    Drawn four times as large and averaged, so that edges are smooth. Pixel (row, column) covers
    the square from (column, row) to (column + 1, row + 1).
    """
    height, width = size_hw
    canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    scale = 2**_FRACTION_BITS
    # cv2 puts whole numbers at the middle of a pixel, polygons here have them at its corner.
    corners = [
        np.rint((points * _SUPERSAMPLING - 0.5) * scale).astype(np.int32) for points in polygons
    ]
    cv2.fillPoly(canvas, corners, 255, shift=_FRACTION_BITS)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255)
