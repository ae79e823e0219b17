"""One generated scene: a picture of drawn objects and the exact mask of each.

Pure drawing with numpy and cv2; nothing is written and nothing of torch is imported.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .shapes import SHAPES, ShapeClass, cover, place
from .textures import TEXTURES, Plane, background, colourise, grid, hsv

COUNTS = (0.05, 0.17, 0.24, 0.23, 0.16, 0.10, 0.05)
"""Probability of 0, 1, 2, ... objects in a scene."""

SIZES = ((0.10, 0.11, 0.15), (0.55, 0.20, 0.42), (0.35, 0.48, 0.74))
"""Probability, shortest and longest length of small, medium and large objects.

Lengths are shares of the picture's shorter side. At 240 px about an eighth of the masks are small
by COCO's area ranges (below 32 x 32 px), a sixth large (above 96 x 96 px), the rest medium.
"""

LEAST_VISIBLE = 0.6
"""An object is not placed where it would leave less than this share of another one in sight."""

_PLACEMENTS = 12
_UNUSUAL = 0.15


class SceneObject(NamedTuple):
    """An object as it can be seen in the finished picture."""

    label: int
    """Index into ``CLASS_NAMES``."""
    mask: NDArray[np.bool_]
    """(H, W), True where the object is what one sees: parts under other objects are False."""


class Scene(NamedTuple):
    """A picture and what is in it."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    objects: tuple[SceneObject, ...]


class _Pose(NamedTuple):
    centre_xy: tuple[float, float]
    length: float
    stretch: float
    rotation: float


def draw_scene(rng: np.random.Generator, size_hw: tuple[int, int]) -> Scene:
    """Draw a scene: a textured background, up to six lit objects with shadows, and some grain.

    Later objects lie on top of earlier ones. Every mask has at least ``LEAST_VISIBLE`` of the
    pixels that its object covers inside the picture.

    Args:
        rng: The only source of randomness: equal states give equal scenes.
        size_hw: Height and width in pixels, at least 64 each.
    """
    canvas = background(rng, size_hw)
    owner = np.full(size_hw, -1, np.int16)
    light_xy = _light(rng)
    labels: list[int] = []
    covered: list[int] = []
    for _ in range(rng.choice(len(COUNTS), p=COUNTS)):
        label = int(rng.integers(len(SHAPES)))
        length = _length(rng, min(size_hw))
        for _ in range(_PLACEMENTS):
            pose = _pose(rng, SHAPES[label], length, size_hw)
            window, alpha = _rasterise(SHAPES[label], pose, size_hw)
            mask = alpha >= 0.5
            if mask.any() and _leaves_others_visible(owner[window], mask, owner, covered):
                _paint(rng, canvas[:, *window], alpha, SHAPES[label], pose, light_xy=light_xy)
                owner[window][mask] = len(labels)
                labels.append(label)
                covered.append(int(mask.sum()))
                break
    image = _with_grain(rng, canvas)
    objects = (SceneObject(label, owner == index) for index, label in enumerate(labels))
    return Scene(image, tuple(objects))


def draw_object(
    rng: np.random.Generator, label: int, size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Draw a picture of one object, for classification: a third to nine tenths of the side long.

    Args:
        rng: The only source of randomness: equal states give equal pictures.
        label: Index into ``CLASS_NAMES``.
        size_hw: Height and width in pixels, at least 64 each.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = background(rng, size_hw)
    light_xy = _light(rng)
    pose = _pose(rng, SHAPES[label], min(size_hw) * rng.uniform(0.33, 0.9), size_hw)
    window, alpha = _rasterise(SHAPES[label], pose, size_hw)
    _paint(rng, canvas[:, *window], alpha, SHAPES[label], pose, light_xy=light_xy)
    return _with_grain(rng, canvas)


def _light(rng: np.random.Generator) -> tuple[float, float]:
    """Unit vector towards the light, which comes from above."""
    angle = rng.uniform(-5 / 6, -1 / 6) * np.pi
    return float(np.cos(angle)), float(np.sin(angle))


def _with_grain(rng: np.random.Generator, canvas: Plane) -> NDArray[np.uint8]:
    """The finished picture (H, W, 3) of a canvas (3, H, W) in [0, 1]."""
    size_hw = canvas.shape[1:]
    grain = rng.standard_normal(size_hw, np.float32) * np.float32(rng.uniform(0.004, 0.02))
    bright = np.clip((canvas + grain) * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(bright.transpose(1, 2, 0))


def _length(rng: np.random.Generator, side: int) -> float:
    _, shortest, longest = SIZES[rng.choice(len(SIZES), p=[share for share, _, _ in SIZES])]
    return side * rng.uniform(shortest, longest)


def _pose(
    rng: np.random.Generator, shape: ShapeClass, length: float, size_hw: tuple[int, int]
) -> _Pose:
    """A place where at most about an eighth of the length sticks out of the picture."""
    height, width = size_hw
    inset = 0.37 * length
    centre_xy = (rng.uniform(inset, width - inset), rng.uniform(inset, height - inset))
    return _Pose(centre_xy, length, rng.uniform(0.8, 1.25), rng.uniform(-shape.tilt, shape.tilt))


def _rasterise(
    shape: ShapeClass, pose: _Pose, size_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], Plane]:
    """The part of the picture that object and shadow touch, and the object's cover (h, w) there."""
    polygons = place(
        shape.outline,
        centre_xy=pose.centre_xy,
        length=pose.length,
        stretch=pose.stretch,
        rotation=pose.rotation,
    )
    margin = 0.25 * pose.length + 4
    limit_xy = np.array(size_hw[::-1])
    first = np.clip(np.floor(polygons[0].min(axis=0) - margin), 0, limit_xy).astype(int)
    last = np.clip(np.ceil(polygons[0].max(axis=0) + margin), 0, limit_xy).astype(int)
    alpha = cover(tuple(points - first for points in polygons), tuple((last - first)[::-1]))
    return (slice(first[1], last[1]), slice(first[0], last[0])), alpha


def _leaves_others_visible(
    owner_here: NDArray[np.int16],
    mask: NDArray[np.bool_],
    owner: NDArray[np.int16],
    covered: list[int],
) -> bool:
    """Whether every object that the mask would hide in part keeps enough of itself in sight."""
    hidden = np.bincount(owner_here[mask] + 1, minlength=len(covered) + 1)[1:]
    for index in np.flatnonzero(hidden):
        visible = np.count_nonzero(owner == index) - hidden[index]
        if visible < LEAST_VISIBLE * covered[index]:
            return False
    return True


def _surface(
    rng: np.random.Generator, shape: ShapeClass, pose: _Pose, size_hw: tuple[int, int]
) -> Plane:
    """Colours (3, h, w) of an object without light: mostly those usual for its class."""
    hue = rng.uniform() if rng.uniform() < _UNUSUAL else rng.choice(shape.hues)
    hue += rng.normal(0, 0.025)
    first = hsv(hue, rng.uniform(0.6, 0.92), rng.uniform(0.6, 0.97))
    if rng.uniform() < 0.6:
        second = hsv(hue, rng.uniform(0.02, 0.3), rng.uniform(0.85, 1))
    else:
        second = hsv(hue, rng.uniform(0.7, 1), rng.uniform(0.2, 0.4))
    unusual = rng.uniform() < _UNUSUAL
    texture = TEXTURES[rng.integers(len(TEXTURES))] if unusual else shape.texture
    period = max(6.0, pose.length * rng.uniform(0.2, 0.32))
    return colourise(texture(rng, size_hw, pose.rotation, period), first, second)


def _paint(
    rng: np.random.Generator,
    canvas: Plane,
    alpha: Plane,
    shape: ShapeClass,
    pose: _Pose,
    *,
    light_xy: tuple[float, float],
) -> None:
    """Draw shadow and object into ``canvas`` (3, h, w), in place.

    Args:
        rng: Source of colours and surface.
        canvas: The window of the picture that is painted.
        alpha: The object's cover of the window, (h, w).
        shape: The object's class.
        pose: Where it lies.
        light_xy: Unit vector towards the light.
    """
    softness = max(0.8, 0.05 * pose.length)
    soft = np.asarray(cv2.GaussianBlur(alpha, (0, 0), softness), np.float32)
    shadow = _moved(soft, light_xy, -0.09 * pose.length)
    canvas *= 1 - np.float32(0.5) * shadow

    # A blurred outline less the same outline moved is bright on the rim that faces the light.
    relief = soft - _moved(soft, light_xy, -softness)
    x, y = grid((alpha.shape[0], alpha.shape[1]))
    across = x * np.float32(light_xy[0] / pose.length) + y * np.float32(light_xy[1] / pose.length)
    middle = np.float32(np.sum(across * alpha) / max(float(alpha.sum()), 1.0))
    brightness = 1 + np.float32(0.35) * (across - middle) + np.float32(0.7) * relief
    colours = _surface(rng, shape, pose, (alpha.shape[0], alpha.shape[1]))
    lit = np.clip(colours * brightness, 0, 1)
    canvas += alpha * (lit - canvas)


def _moved(plane: Plane, direction_xy: tuple[float, float], distance: float) -> Plane:
    """Shift (h, w) by ``distance`` pixels along a unit vector; the border is repeated."""
    shift_x, shift_y = (distance * part for part in direction_xy)
    matrix = np.array([[1, 0, shift_x], [0, 1, shift_y]], np.float32)
    size_wh = (plane.shape[1], plane.shape[0])
    moved = cv2.warpAffine(plane, matrix, size_wh, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)
