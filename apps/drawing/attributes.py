"""Faces with their attributes drawn onto a picture: an array in, an array out."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .boxes import class_colour, font, shortened, solid_box

if TYPE_CHECKING:
    from ..inference.face_attributes import FaceDescription

_INK: _Colour = (20, 20, 24)
_PANEL = (255, 255, 255, 205)
_SMALLEST_LETTERS = 10
_LEGIBLE_PX = 640


def draw_attributes(image: np.ndarray, faces: Sequence["FaceDescription"]) -> np.ndarray:
    """Draw a box around each face and list beside it what is said to be there.

    The list stands right of the box, or left of it where there is more room; the surest attribute
    (the most above its threshold) comes first, and what the picture's height has no room for is
    counted in the last line. A picture without a side of 640 px is enlarged by a whole number,
    so that there is room for names.

    Args:
        image: (H, W, 3) uint8, RGB; not changed.
        faces: Of this picture.

    Returns:
        (k H, k W, 3) uint8, RGB; k is 1 unless the picture is small.
    """
    canvas = Image.fromarray(image)
    scale = math.ceil(_LEGIBLE_PX / max(canvas.size))
    canvas = canvas.resize((canvas.width * scale, canvas.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas, "RGBA")
    size = max(_SMALLEST_LETTERS, round(max(canvas.size) * 0.02))
    for number, face in enumerate(faces):
        x1, y1, x2, y2 = (float(value) * scale for value in face.box)
        line = max(2, round(max(canvas.size) / 300))
        solid_box(pen, (x1, y1, x2, y2), class_colour(number), line)
        _list_beside(pen, (x1, y1, x2), _lines(face), size, class_colour(number))
    return np.asarray(canvas)


def _lines(face: "FaceDescription") -> list[str]:
    probabilities, thresholds = face.probabilities, face.thresholds
    named = sorted(face.names, key=lambda name: thresholds[name] - probabilities[name])
    lines = [f"{name.replace('_', ' ')} {probabilities[name]:.2f}" for name in named]
    return lines or ["no attribute"]


def _list_beside(
    pen: ImageDraw.ImageDraw,
    box: tuple[float, float, float],
    lines: list[str],
    size: int,
    colour: tuple[int, int, int],
) -> None:
    width, height = pen.im.size
    letters, step = font(size), round(size * 1.25)
    room = max(1, (height - 8) // step)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"{len(lines) - room + 1} more"]
    x1, y1, x2 = box
    rightwards = width - x2 >= x1
    space = max(width - x2 if rightwards else x1, width / 3) - 12
    cut = [shortened(text, space, letters) for text in lines]
    panel = max(letters.getlength(text) for text in cut) + 8
    left = min(x2 + 4, width - panel) if rightwards else max(x1 - 4 - panel, 0)
    top = min(max(y1, 0), max(height - step * len(cut) - 6, 0))
    pen.rectangle((left, top, left + panel, top + step * len(cut) + 4), fill=_PANEL)
    pen.rectangle((left, top, left + 2, top + step * len(cut) + 4), fill=colour)
    for row, text in enumerate(cut):
        pen.text((left + 6, top + 2 + row * step), text, _INK, letters)
