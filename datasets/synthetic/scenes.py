"""Drawing of generated scenes: images of objects with the exact mask of each. Needs no torch."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]
"""float32: a channel (H, W), or an image (3, H, W) RGB, the faster layout in numpy."""


def grid(size_hw: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return pixel coordinates as two arrays that broadcast: x (1, W) and y (H, 1)."""
    height, width = size_hw
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


def octave_noise(
    rng: np.random.Generator, size_hw: tuple[int, int], *, cells: int, octaves: int
) -> Plane:
    """Draw smooth value noise (H, W) in [0, 1].

    It is the sum of ``octaves`` random grids, each twice as fine and 0.6 as strong as the last; the
    coarsest has ``cells`` across the image.
    """
    height, width = size_hw
    half_wh = (max(width // 2, 1), max(height // 2, 1))
    # Half the resolution is enough for something this smooth, and three times as fast.
    total = np.zeros(half_wh[::-1], np.float32)
    for octave in range(octaves):
        side = cells * 2**octave + 2
        coarse = rng.random((side, side), dtype=np.float32)
        total += 0.6**octave * cv2.resize(coarse, half_wh, interpolation=cv2.INTER_CUBIC)
    total = np.asarray(cv2.resize(total, (width, height)), np.float32)
    return stretch(total)


def stretch(plane: Plane) -> Plane:
    """Scale linearly so that the smallest value becomes 0 and the largest 1; constants become 0."""
    low, high = float(plane.min()), float(plane.max())
    return (plane - np.float32(low)) / np.float32(max(high - low, 1e-6))


def wave(x: Plane, y: Plane, *, angle: float, period: float, phase: float) -> Plane:
    """Return a plane sine wave, from -1 to 1, at coordinates x (1, W) and y (H, 1) in pixels.

    ``angle`` (of its direction) and ``phase`` are in radians, ``period`` in pixels.
    """
    frequency = 2 * np.pi / period
    along = x * np.float32(np.cos(angle) * frequency) + y * np.float32(np.sin(angle) * frequency)
    return np.sin(along + np.float32(phase))


def harden(signal: Plane, sharpness: float) -> Plane:
    """Turn a signal around 0 into two tones with a soft edge between them, to avoid aliasing."""
    return np.clip(signal * np.float32(sharpness) + np.float32(0.5), 0, 1)


def plain(rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float) -> Plane:
    """Draw one tone with a faint mottle (H, W)."""
    del angle, period
    return 0.25 * octave_noise(rng, size_hw, cells=3, octaves=1)


def stripes(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> Plane:
    """Draw parallel bands of two tones (H, W); see `Texture`."""
    x, y = grid(size_hw)
    phase = rng.uniform(0, 2 * np.pi)
    return harden(wave(x, y, angle=angle, period=period, phase=phase), period / 5)


def checks(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> Plane:
    """Draw a chessboard (H, W), whose period is two fields; see `Texture`."""
    across, down = _crossed_waves(rng, size_hw, angle, period)
    return harden(across * down, period / 4)


def _crossed_waves(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> tuple[Plane, Plane]:
    x, y = grid(size_hw)
    phase = rng.uniform(0, 2 * np.pi, 2)
    across = wave(x, y, angle=angle, period=period, phase=phase[0])
    return across, wave(x, y, angle=angle + np.pi / 2, period=period, phase=phase[1])


def dots(rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float) -> Plane:
    """Draw round spots on a square lattice (H, W); see `Texture`."""
    across, down = _crossed_waves(rng, size_hw, angle, period)
    return harden(across + down - np.float32(0.6), period / 5)


def marble(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> Plane:
    """Draw veins (H, W), a wave bent by noise; see `Texture`."""
    x, y = grid(size_hw)
    bend = np.float32(period) * (octave_noise(rng, size_hw, cells=3, octaves=3) - np.float32(0.5))
    phase = rng.uniform(0, 2 * np.pi)
    veins = wave(bend + x, bend + y, angle=angle, period=period, phase=phase)
    return np.float32(0.5) + np.float32(0.5) * veins


Texture = Callable[[np.random.Generator, tuple[int, int], float, float], Plane]
"""(rng, size_hw, angle in radians, period in pixels) -> (H, W) float32 in [0, 1]."""

TEXTURES: tuple[Texture, ...] = (plain, stripes, checks, dots, marble)


def colorize(tone: Plane, first: Plane, second: Plane) -> Plane:
    """Mix two colors (3,) to (3, H, W) float32 RGB: ``first`` where ``tone`` (H, W) is 0."""
    return first[:, None, None] + tone * (second - first)[:, None, None]


def hsv(hue: float, saturation: float, value: float) -> Plane:
    """Convert a color from HSV to RGB (3,) float32, all in [0, 1] (hue wraps around)."""
    sector = np.array([5.0, 3.0, 1.0], np.float32)
    k = (sector + np.float32(hue % 1.0 * 6.0)) % 6
    return np.float32(value) * (1 - np.float32(saturation) * np.clip(np.minimum(k, 4 - k), 0, 1))


def background(rng: np.random.Generator, size_hw: tuple[int, int]) -> Plane:
    """Draw a background (3, H, W) RGB: muted colors, a texture, a gradient and noise.

    The colors are duller than those of the objects, but the textures are the same, so that a
    texture does not reveal an object.
    """
    hue = rng.uniform()
    first = hsv(hue, rng.uniform(0.08, 0.38), rng.uniform(0.35, 0.85))
    second = hsv(hue + rng.uniform(-0.2, 0.2), rng.uniform(0.05, 0.35), rng.uniform(0.35, 0.85))
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    contrast = np.float32(rng.uniform(0.25, 0.75))
    pattern = texture(rng, size_hw, rng.uniform(0, np.pi), max(size_hw) * rng.uniform(0.05, 0.3))
    clouds = octave_noise(rng, size_hw, cells=int(rng.integers(2, 5)), octaves=4)
    tone = contrast * pattern + (1 - contrast) * clouds

    x, y = grid(size_hw)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = stretch(x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))
    light = np.float32(0.85) + np.float32(0.3) * ramp
    return np.clip(colorize(tone, first, second) * light, 0, 1)


Polygon = NDArray[np.float64]
"""(N, 2) x, y of the corners; units of half an object's length, the origin at its middle."""

_SUPERSAMPLING = 4
_FRACTION_BITS = 4


class ShapeClass(NamedTuple):
    """The appearance of a class."""

    name: str
    outline: tuple[Polygon, ...]
    """Closed polygons, filled by the even-odd rule: a second one inside the first is a hole."""
    hues: tuple[float, ...]
    """Usual colors, in turns of the color circle [0, 1)."""
    texture: Texture
    """Usual surface."""
    tilt: float
    """Largest rotation to either side, in radians."""


def _arc(radius: float, start: float, stop: float, *, x: float = 0.0) -> Polygon:
    """Return points on a circle around (x, 0), from ``start`` to ``stop`` radians."""
    angle = np.linspace(start, stop, 48)
    return np.stack([x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _regular(corners: int, *, inner: float | None = None) -> Polygon:
    """Return corners on the unit circle, the first at the top; ``inner`` makes a star of them."""
    count = corners if inner is None else 2 * corners
    radius = np.ones(count)
    if inner is not None:
        radius[1::2] = inner
    angle = np.arange(count) * 2 * np.pi / count - np.pi / 2
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross(arm: float) -> Polygon:
    """Return a plus sign with arms ``2 * arm`` wide."""
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in _QUARTERS]
    return np.concatenate([quarter @ turn.T for turn in turns])


def _crescent(offset: float, radius: float) -> Polygon:
    """Return the unit circle less a circle of ``radius`` around (offset, 0)."""
    # The circles meet where x = (1 + offset^2 - radius^2) / (2 offset).
    meet_x = (1 + offset**2 - radius**2) / (2 * offset)
    meet_y = np.sqrt(1 - meet_x**2)
    outer = np.arctan2(meet_y, meet_x)
    inner = np.arctan2(meet_y, meet_x - offset)
    edge = _arc(radius, inner, 2 * np.pi - inner, x=offset)
    return np.concatenate([_arc(1.0, outer, 2 * np.pi - outer), edge[::-1]]) + np.array([0.2, 0.0])


def _flag(half_height: float, swing: float) -> Polygon:
    """Return a banner whose long sides wave by ``swing``."""
    x = np.linspace(-1, 1, 24)
    y = swing * np.sin(1.5 * np.pi * x)
    top, bottom = np.stack([x, y - half_height], axis=1), np.stack([x, y + half_height], axis=1)
    return np.concatenate([top, bottom[::-1]])


_QUARTERS = (0.0, np.pi / 2, np.pi, 3 * np.pi / 2)
_TURN = 2 * np.pi

SHAPES: tuple[ShapeClass, ...] = (
    ShapeClass("disk", (_arc(1, 0, _TURN),), (0.02, 0.58), dots, np.pi),
    ShapeClass("ring", (_arc(1, 0, _TURN), _arc(0.55, 0, _TURN)), (0.09, 0.5), plain, 0.0),
    ShapeClass("square", (0.88 * _regular(4),), (0.6, 0.36), checks, np.pi),
    ShapeClass("triangle", (_regular(3),), (0.33, 0.8), plain, np.pi),
    ShapeClass("star", (_regular(5, inner=0.45),), (0.14, 0.92), plain, np.pi),
    ShapeClass("cross", (_cross(0.34),), (0.98, 0.47), plain, np.pi),
    ShapeClass("crescent", (_crescent(0.55, 0.8),), (0.75, 0.15), marble, np.pi),
    ShapeClass("flag", (_flag(0.5, 0.1),), (0.99, 0.68), stripes, 0.45),
)

CLASS_NAMES: tuple[str, ...] = tuple(shape.name for shape in SHAPES)
"""Names in the order of the class index; the category id in the annotation file is index + 1."""


def place(
    outline: tuple[Polygon, ...],
    *,
    center_xy: tuple[float, float],
    length: float,
    stretch: float,
    rotation: float,
) -> tuple[Polygon, ...]:
    """Put an outline, polygons in units of half the object's length, at ``center_xy`` in pixels.

    ``length`` is that of 2 units in pixels, ``stretch`` width over height before the rotation,
    which keeps the area, and ``rotation`` in radians, clockwise on the screen.
    """
    ratio = np.sqrt(stretch)
    cos, sin = np.cos(rotation), np.sin(rotation)
    matrix = length / 2 * np.array([[cos * ratio, -sin / ratio], [sin * ratio, cos / ratio]])
    return tuple(points @ matrix.T + np.asarray(center_xy) for points in outline)


def cover(polygons: tuple[Polygon, ...], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Return the covered share of each pixel, (H, W) float32 in [0, 1].

    Drawn four times as large and averaged, so that edges are smooth. Pixel (row, column) is the
    square from (column, row) to (column + 1, row + 1).
    """
    height, width = size_hw
    canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    scale = 2**_FRACTION_BITS
    # Whole numbers are the center of a pixel for cv2, and its corner for the polygons.
    corners = [
        np.rint((points * _SUPERSAMPLING - 0.5) * scale).astype(np.int32) for points in polygons
    ]
    cv2.fillPoly(canvas, corners, 255, shift=_FRACTION_BITS)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255)


COUNTS = (0.05, 0.17, 0.24, 0.23, 0.16, 0.10, 0.05)
"""Probability of 0, 1, 2, ... objects in a scene."""

SIZES = ((0.10, 0.11, 0.15), (0.55, 0.20, 0.42), (0.35, 0.48, 0.74))
"""Probability, shortest and longest length of small, medium and large objects.

Lengths are shares of the image's shorter side. At 240 px about an eighth of the masks are small
by COCO's area ranges (below 32 x 32 px), a sixth large (above 96 x 96 px), the rest medium.
"""

LEAST_VISIBLE = 0.6
"""An object is not placed where it would leave less than this share of another one visible."""

_PLACEMENTS = 12
_UNUSUAL = 0.15


class SceneObject(NamedTuple):
    """The visible part of an object in the finished image."""

    label: int
    """Index into ``CLASS_NAMES``."""
    mask: NDArray[np.bool_]
    """(H, W), True where the object is visible, not under another one."""


class Scene(NamedTuple):
    """An image and its objects."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    objects: tuple[SceneObject, ...]


class _Pose(NamedTuple):
    center_xy: tuple[float, float]
    length: float
    stretch: float
    rotation: float


def draw_scene(rng: np.random.Generator, size_hw: tuple[int, int]) -> Scene:
    """Draw a scene: a textured background, up to six lit objects with shadows, and some grain.

    Later objects lie on top of earlier ones. Every mask has at least ``LEAST_VISIBLE`` of the
    pixels that its object covers inside the image. Equal states of ``rng`` give equal scenes.
    """
    canvas = background(rng, size_hw)
    owner = np.full(size_hw, -1, np.int16)
    light_xy = _light(rng)
    labels: list[int] = []
    covered: list[int] = []
    for _ in range(rng.choice(len(COUNTS), p=COUNTS)):
        label = int(rng.integers(len(SHAPES)))
        _, shortest, longest = SIZES[rng.choice(len(SIZES), p=[share for share, _, _ in SIZES])]
        length = min(size_hw) * rng.uniform(shortest, longest)
        for _ in range(_PLACEMENTS):
            pose = _pose(rng, SHAPES[label], length, size_hw)
            window, alpha = _rasterize(SHAPES[label], pose, size_hw)
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
    """Draw an image (H, W, 3) uint8 RGB of one object, of a third to nine tenths of the side.

    ``label`` is an index into ``CLASS_NAMES``.
    """
    canvas = background(rng, size_hw)
    light_xy = _light(rng)
    pose = _pose(rng, SHAPES[label], min(size_hw) * rng.uniform(0.33, 0.9), size_hw)
    window, alpha = _rasterize(SHAPES[label], pose, size_hw)
    _paint(rng, canvas[:, *window], alpha, SHAPES[label], pose, light_xy=light_xy)
    return _with_grain(rng, canvas)


def _light(rng: np.random.Generator) -> tuple[float, float]:
    """Draw the unit vector towards the light, which comes from above."""
    angle = rng.uniform(-5 / 6, -1 / 6) * np.pi
    return float(np.cos(angle)), float(np.sin(angle))


def _with_grain(rng: np.random.Generator, canvas: Plane) -> NDArray[np.uint8]:
    """Finish a canvas (3, H, W) in [0, 1] to an image (H, W, 3)."""
    size_hw = canvas.shape[1:]
    grain = rng.standard_normal(size_hw, np.float32) * np.float32(rng.uniform(0.004, 0.02))
    bright = np.clip((canvas + grain) * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(bright.transpose(1, 2, 0))


def _pose(
    rng: np.random.Generator, shape: ShapeClass, length: float, size_hw: tuple[int, int]
) -> _Pose:
    """Draw a pose of which at most about an eighth of the length is outside the image."""
    height, width = size_hw
    inset = 0.37 * length
    center_xy = (rng.uniform(inset, width - inset), rng.uniform(inset, height - inset))
    return _Pose(center_xy, length, rng.uniform(0.8, 1.25), rng.uniform(-shape.tilt, shape.tilt))


def _rasterize(
    shape: ShapeClass, pose: _Pose, size_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], Plane]:
    """Return the window with object and shadow, and the object's cover (h, w) of it."""
    polygons = place(shape.outline, **pose._asdict())
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
    """Return whether every object stays visible enough if the mask is painted."""
    hidden = np.bincount(owner_here[mask] + 1, minlength=len(covered) + 1)[1:]
    for index in np.flatnonzero(hidden):
        visible = np.count_nonzero(owner == index) - hidden[index]
        if visible < LEAST_VISIBLE * covered[index]:
            return False
    return True


def _surface(
    rng: np.random.Generator, shape: ShapeClass, pose: _Pose, size_hw: tuple[int, int]
) -> Plane:
    """Draw the colors (3, h, w) of an object without light, mostly those usual for its class."""
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
    return colorize(texture(rng, size_hw, pose.rotation, period), first, second)


def _paint(
    rng: np.random.Generator,
    canvas: Plane,
    alpha: Plane,
    shape: ShapeClass,
    pose: _Pose,
    *,
    light_xy: tuple[float, float],
) -> None:
    """Draw shadow and object into a window ``canvas`` (3, h, w) that it covers by ``alpha``."""
    softness = max(0.8, 0.05 * pose.length)
    soft = np.asarray(cv2.GaussianBlur(alpha, (0, 0), softness), np.float32)
    shadow = _moved(soft, light_xy, -0.09 * pose.length)
    canvas *= 1 - np.float32(0.5) * shadow

    # A blurred outline minus the same outline shifted is bright on the rim towards the light.
    relief = soft - _moved(soft, light_xy, -softness)
    x, y = grid((alpha.shape[0], alpha.shape[1]))
    across = x * np.float32(light_xy[0] / pose.length) + y * np.float32(light_xy[1] / pose.length)
    middle = np.float32(np.sum(across * alpha) / max(float(alpha.sum()), 1.0))
    brightness = 1 + np.float32(0.35) * (across - middle) + np.float32(0.7) * relief
    colors = _surface(rng, shape, pose, (alpha.shape[0], alpha.shape[1]))
    lit = np.clip(colors * brightness, 0, 1)
    canvas += alpha * (lit - canvas)


def _moved(plane: Plane, direction_xy: tuple[float, float], distance: float) -> Plane:
    """Shift (h, w) by ``distance`` pixels along a unit vector; the border is repeated."""
    shift_x, shift_y = (distance * part for part in direction_xy)
    matrix = np.array([[1, 0, shift_x], [0, 1, shift_y]], np.float32)
    size_wh = (plane.shape[1], plane.shape[0])
    moved = cv2.warpAffine(plane, matrix, size_wh, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)
