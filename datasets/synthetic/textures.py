"""Procedural textures: the surfaces of the generated scenes.

Every function returns float32 in [0, 1] unless its docstring says otherwise, takes its randomness
from the generator it is given, and uses numpy and cv2 only.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]
"""float32: a channel (H, W), or a picture (3, H, W) RGB, the faster layout in numpy."""


def grid(size_hw: tuple[int, int]) -> tuple[Plane, Plane]:
    """Pixel coordinates as two arrays that broadcast: x (1, W) and y (H, 1), in pixels."""
    height, width = size_hw
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    return x, y


def octave_noise(
    rng: np.random.Generator, size_hw: tuple[int, int], *, cells: int, octaves: int
) -> Plane:
    """Smooth value noise (H, W): random grids, each twice as fine and 0.6 as strong as the last.

    Args:
        rng: Source of the random grids.
        size_hw: Height and width in pixels.
        cells: Cells across the picture in the coarsest grid, at least 1.
        octaves: How many grids are added, at least 1.
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
    """Plane sine wave at the coordinates ``x``, ``y``: -1 to 1, ``period`` in pixels.

    Args:
        x: (1, W) float32.
        y: (H, 1) float32.
        angle: Direction in which the wave runs, in radians.
        period: Length of one wave in pixels.
        phase: Shift in radians.
    """
    frequency = 2 * np.pi / period
    along = x * np.float32(np.cos(angle) * frequency) + y * np.float32(np.sin(angle) * frequency)
    return np.sin(along + np.float32(phase))


def harden(signal: Plane, sharpness: float) -> Plane:
    """Turn a signal around 0 into two tones with a soft edge between them, so nothing aliases."""
    return np.clip(signal * np.float32(sharpness) + np.float32(0.5), 0, 1)


def plain(rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float) -> Plane:
    """One tone with a faint mottle (H, W)."""
    del angle, period
    return 0.25 * octave_noise(rng, size_hw, cells=3, octaves=1)


def stripes(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> Plane:
    """Parallel bands of two tones (H, W); ``angle`` in radians, ``period`` in pixels."""
    x, y = grid(size_hw)
    phase = rng.uniform(0, 2 * np.pi)
    return harden(wave(x, y, angle=angle, period=period, phase=phase), period / 5)


def checks(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> Plane:
    """A chessboard (H, W); ``angle`` in radians, ``period`` in pixels is two fields long."""
    x, y = grid(size_hw)
    phase = rng.uniform(0, 2 * np.pi, 2)
    across = wave(x, y, angle=angle, period=period, phase=phase[0])
    down = wave(x, y, angle=angle + np.pi / 2, period=period, phase=phase[1])
    return harden(across * down, period / 4)


def dots(rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float) -> Plane:
    """Round spots on a square lattice (H, W); ``angle`` in radians, ``period`` in pixels."""
    x, y = grid(size_hw)
    phase = rng.uniform(0, 2 * np.pi, 2)
    across = wave(x, y, angle=angle, period=period, phase=phase[0])
    down = wave(x, y, angle=angle + np.pi / 2, period=period, phase=phase[1])
    return harden(across + down - np.float32(0.6), period / 5)


def marble(
    rng: np.random.Generator, size_hw: tuple[int, int], angle: float, period: float
) -> Plane:
    """Veins: a wave bent by noise (H, W); ``angle`` in radians, ``period`` in pixels."""
    x, y = grid(size_hw)
    bend = np.float32(period) * (octave_noise(rng, size_hw, cells=3, octaves=3) - np.float32(0.5))
    phase = rng.uniform(0, 2 * np.pi)
    veins = wave(bend + x, bend + y, angle=angle, period=period, phase=phase)
    return np.float32(0.5) + np.float32(0.5) * veins


Texture = Callable[[np.random.Generator, tuple[int, int], float, float], Plane]
"""(rng, size_hw, angle in radians, period in pixels) -> (H, W) float32 in [0, 1]."""

TEXTURES: tuple[Texture, ...] = (plain, stripes, checks, dots, marble)


def colourise(tone: Plane, first: Plane, second: Plane) -> Plane:
    """Mix two colours: ``first`` where ``tone`` is 0, ``second`` where it is 1.

    Args:
        tone: (H, W) float32 in [0, 1].
        first: (3,) float32 RGB in [0, 1].
        second: (3,) float32 RGB in [0, 1].

    Returns:
        (3, H, W) float32 RGB.
    """
    return first[:, None, None] + tone * (second - first)[:, None, None]


def hsv(hue: float, saturation: float, value: float) -> Plane:
    """One colour from HSV to RGB, all in [0, 1] (hue wraps around): (3,) float32."""
    sector = np.array([5.0, 3.0, 1.0], np.float32)
    k = (sector + np.float32(hue % 1.0 * 6.0)) % 6
    return np.float32(value) * (1 - np.float32(saturation) * np.clip(np.minimum(k, 4 - k), 0, 1))


def background(rng: np.random.Generator, size_hw: tuple[int, int]) -> Plane:
    """A backdrop (3, H, W) RGB: muted colours, a texture, a gradient and noise of several octaves.

    The colours are duller than those of the objects, as most backgrounds are, but the textures
    are the same ones: a checked surface is no sign of an object.
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
    return np.clip(colourise(tone, first, second) * light, 0, 1)
