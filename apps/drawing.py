"""Boxes and their labels drawn onto an image: an array in, an array out."""

import colorsys
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from ..datasets.types import Detections, DetectionTarget
    from .inference.detection import DetectionResult
    from .inference.face_attributes import FaceDescription

_Box = tuple[float, float, float, float]
_Color = tuple[int, int, int]

_WHITE: _Color = (255, 255, 255)
_INK: _Color = (20, 20, 24)
_HALO = (0, 0, 0, 150)
_TRUTH_LABEL = (20, 20, 24, 190)


class _Style(NamedTuple):
    """Sizes in pixels that suit an image's size."""

    line: int
    font: ImageFont.FreeTypeFont
    small_font: ImageFont.FreeTypeFont


class _Look(NamedTuple):
    """Of a label."""

    font: ImageFont.FreeTypeFont
    background: tuple[int, ...]
    color: _Color
    optional: bool
    """Left out rather than written over another."""


def draw_detections(
    image: np.ndarray,
    detections: "Detections | DetectionResult",
    names: Sequence[str],
    score_threshold: float = 0.3,
    truth: "DetectionTarget | None" = None,
) -> np.ndarray:
    """Draw what was found (solid, a color for each class) and what is there (dashed white).

    Labels stay inside the image and, where there is room, off each other; those of high score
    choose first. An annotated box is named where no drawn detection of its class covers it (IoU
    0.5) and its name hides no other. Line and letter sizes follow the image's size.

    Args:
        image: (H, W, 3) uint8, RGB; not changed.
        detections: of this image alone: boxes (K, 4) xyxy in its pixels, scores (K,), labels
            (K,); rows with label -1 are padding.
        names: class name by class index.
        score_threshold: detections below it are not drawn.
        truth: of this image alone: boxes (N, 4) xyxy in its pixels, labels (N,), crowd (N,).

    Returns:
        (H, W, 3) uint8, RGB.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    style = _style_for(canvas.size)
    found = _best_first(detections, score_threshold, canvas.size)
    actual = _truth_rows(truth, canvas.size)
    for box, _, label in reversed(found):
        solid_box(pen, box, class_color(label), style.line)
    for box, _, _ in actual:
        dashed_box(pen, box, max(1, style.line // 2))
    taken: list[_Box] = []
    for box, score, label in found:
        look = _found_look(class_color(label), style)
        _label(pen, f"{names[label]} {score:.2f}", box, look, taken)
    for box, label, crowd in actual:
        if not any(label == other and _iou(box, drawn) >= 0.5 for drawn, _, other in found):
            look = _Look(style.small_font, _TRUTH_LABEL, _WHITE, optional=True)
            _label(pen, names[label] + " (crowd)" * crowd, box, look, taken)
    return np.asarray(canvas)


def class_color(label: int) -> _Color:
    """A vivid color for a class index, the same in every image; neighbors differ much."""
    hue = (0.33 + label * 0.618034) % 1.0  # steps of the golden ratio never come close to a cycle
    lightness = (0.55, 0.68, 0.45)[label // 8 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _best_first(
    detections: "Detections | DetectionResult", threshold: float, size: tuple[int, int]
) -> list[tuple[_Box, float, int]]:
    rows = zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        strict=True,
    )
    drawn = [(_clipped(box, size), score, label) for box, score, label in rows if label >= 0]
    return sorted((row for row in drawn if row[1] >= threshold), key=lambda row: -row[1])


def _truth_rows(
    truth: "DetectionTarget | None", size: tuple[int, int]
) -> list[tuple[_Box, int, bool]]:
    if truth is None:
        return []
    rows = zip(truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), strict=True)
    return [(_clipped(box, size), label, crowd) for box, label, crowd in rows if label >= 0]


def _clipped(box: Sequence[float], size: tuple[int, int]) -> _Box:
    """Bring a box into the image, so that its lines show; its corners stay in order."""
    x1, y1 = (min(max(value, 0), most - 1) for value, most in zip(box[:2], size, strict=True))
    x2, y2 = (min(max(value, 0), most - 1) for value, most in zip(box[2:], size, strict=True))
    return x1, y1, max(x1, x2), max(y1, y2)


def solid_box(pen: ImageDraw.ImageDraw, box: _Box, color: _Color, line: int) -> None:
    """Draw a box as detections have it: its color with a dark rim; ``line`` in pixels."""
    x1, y1, x2, y2 = map(round, box)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_HALO, width=line + 2)
    pen.rectangle((x1, y1, x2, y2), outline=color, width=line)


def dashed_box(pen: ImageDraw.ImageDraw, box: _Box, line: int) -> None:
    """Draw a box as annotations have it: white dashes with a dark rim; ``line`` in pixels."""
    x1, y1, x2, y2 = box
    edges = [(x1, y1, x2, y1), (x2, y1, x2, y2), (x2, y2, x1, y2), (x1, y2, x1, y1)]
    dashes = [dash for edge in edges for dash in _dashes(edge, 4 * line + 2)]
    for dash in dashes:
        pen.line(dash, fill=_HALO, width=line + 2)
    for dash in dashes:
        pen.line(dash, fill=_WHITE, width=line)


def _dashes(edge: _Box, length: float) -> Iterator[_Box]:
    """Pieces of an edge, of about this length, with gaps as long; it begins and ends with one."""
    x1, y1, x2, y2 = edge
    pieces = 2 * int(math.hypot(x2 - x1, y2 - y1) / (2 * length)) + 1
    for piece in range(0, pieces, 2):
        start, end = piece / pieces, (piece + 1) / pieces
        yield (
            x1 + (x2 - x1) * start,
            y1 + (y2 - y1) * start,
            x1 + (x2 - x1) * end,
            y1 + (y2 - y1) * end,
        )


def _label(pen: ImageDraw.ImageDraw, text: str, box: _Box, look: _Look, taken: list[_Box]) -> None:
    """Write a label at the box where it hides least of those that are there, and add its place."""
    size = pen.im.size
    text = shortened(text, size[0] - 6, look.font)
    width, height = math.ceil(look.font.getlength(text)) + 6, round(look.font.size * 1.35)
    places = list(_places(box, (width, height), size))
    hidden = [sum(_overlap(place, other) for other in taken) for place in places]
    least = min(hidden)
    place = places[hidden.index(least)]
    if look.optional and least:
        return
    taken.append(place)
    pen.rectangle(place, fill=look.background)
    middle = (place[0] + 3, (place[1] + place[3]) / 2)
    pen.text(middle, text, look.color, look.font, anchor="lm")


def _places(box: _Box, label: tuple[int, int], size: tuple[int, int]) -> Iterator[_Box]:
    """Where a label may stand, the best first: above, inside, below; to the left, to the right."""
    x1, y1, x2, y2 = box
    width, height = label
    for left in (x1, x2 - width):
        for top in (y1 - height, y1, y2, y2 - height):
            inside_left = round(min(max(left, 0), max(size[0] - width - 1, 0)))
            inside_top = round(min(max(top, 0), max(size[1] - height - 1, 0)))
            yield (inside_left, inside_top, inside_left + width, inside_top + height)


def _overlap(first: _Box, second: _Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def _iou(first: _Box, second: _Box) -> float:
    shared = _overlap(first, second)
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second))
    return shared / (areas - shared) if shared else 0.0


def shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """Cut the middle out of a text until it fits a width in pixels."""
    kept = len(text)
    short = text
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def _found_look(background: _Color, style: _Style) -> _Look:
    red, green, blue = background
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma of ITU-R BT.601
    return _Look(style.font, background, _INK if bright else _WHITE, optional=False)


def _style_for(size: tuple[int, int]) -> _Style:
    longest = max(size)
    letters = max(11, round(longest * 0.025))
    return _Style(
        line=max(2, round(longest / 220)),
        font=font(letters, bold=True),
        small_font=font(max(10, round(letters * 0.9))),
    )


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: many alphabets, the same on every machine."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


_PANEL = (255, 255, 255, 205)
_SMALLEST_LETTERS = 10
_LEGIBLE_PX = 640


def draw_attributes(image: np.ndarray, faces: Sequence["FaceDescription"]) -> np.ndarray:
    """Draw a box around each face and list beside it what is said to be there.

    The list stands right of the box, or left of it where there is more room; the surest attribute
    (the most above its threshold) comes first, and what the image's height has no room for is
    counted in the last line. An image without a side of 640 px is enlarged by a whole number,
    so that there is room for names.

    Args:
        image: (H, W, 3) uint8, RGB; not changed.
        faces: Of this image.

    Returns:
        (k H, k W, 3) uint8, RGB; k is 1 unless the image is small.
    """
    canvas = Image.fromarray(image)
    scale = math.ceil(_LEGIBLE_PX / max(canvas.size))
    canvas = canvas.resize((canvas.width * scale, canvas.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas, "RGBA")
    size = max(_SMALLEST_LETTERS, round(max(canvas.size) * 0.02))
    for number, face in enumerate(faces):
        x1, y1, x2, y2 = (float(value) * scale for value in face.box)
        line = max(2, round(max(canvas.size) / 300))
        solid_box(pen, (x1, y1, x2, y2), class_color(number), line)
        _list_beside(pen, (x1, y1, x2), _lines(face), size, class_color(number))
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
    color: tuple[int, int, int],
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
    pen.rectangle((left, top, left + 2, top + step * len(cut) + 4), fill=color)
    for row, text in enumerate(cut):
        pen.text((left + 6, top + 2 + row * step), text, _INK, letters)


_PAGE = (247, 247, 245)
_GRAY = (95, 95, 100)

_GAP = 12
_CELL_HW = (360, 480)
_CAPTION_SIZE = 13
_TITLE_SIZE = 17


def fit_image(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale an image to a cell of the grid.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        the scaled image, at most 360 x 480 pixels; the factor by which its boxes scale too.
    """
    height, width = image.shape[:2]
    scale = min(_CELL_HW[0] / height, _CELL_HW[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method), scale


def make_grid(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, score_threshold: float
) -> np.ndarray:
    """Lay images out in rows, with a caption under each, a title and a legend above all.

    Args:
        images: arrays (H, W, 3) uint8 RGB of any sizes, at least one.
        captions: a line for each; cut in the middle where it is too long.
        title: a line on top.
        score_threshold: what the legend says of the detections that are drawn.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    columns = _columns_for(len(images))
    cell = max(image.shape[1] for image in images)
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.shape[0] for image in row) for row in rows]
    below, head = _CAPTION_SIZE + 2 * _GAP, _TITLE_SIZE + _CAPTION_SIZE + 4 * _GAP
    size = (columns * (cell + _GAP) + _GAP, head + sum(heights) + below * len(rows))
    page = Image.new("RGB", size, _PAGE)
    pen = ImageDraw.Draw(page, "RGBA")
    title_letters = font(_TITLE_SIZE, bold=True)
    pen.text((_GAP, _GAP), shortened(title, size[0] - 2 * _GAP, title_letters), _INK, title_letters)
    _legend(pen, _TITLE_SIZE + 2 * _GAP, score_threshold)
    letters = font(_CAPTION_SIZE)
    top = head
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left = _GAP + column * (cell + _GAP)
        inset = (cell - image.shape[1]) // 2
        page.paste(Image.fromarray(image), (left + inset, top + heights[row] - image.shape[0]))
        caption = shortened(captions[index], cell, letters)
        pen.text((left + cell // 2, top + heights[row] + 5), caption, _GRAY, letters, anchor="ma")
        if column == columns - 1:
            top += heights[row] + below
    return np.asarray(page)


def _columns_for(count: int) -> int:
    """Columns of a grid that is wider than high and leaves few cells empty."""
    least = math.ceil(math.sqrt(count))
    return min(range(least, least + 3), key=lambda columns: (-count % columns, columns))


def _legend(pen: ImageDraw.ImageDraw, top: int, score_threshold: float) -> None:
    letters = font(_CAPTION_SIZE)
    left, size = _GAP, _CAPTION_SIZE + 3
    for text in ("annotated", f"found, with score (from {score_threshold:.2f})"):
        box = (left, top, left + 2 * size, top + size)
        if text == "annotated":
            pen.rectangle(box, fill=_GRAY)
            dashed_box(pen, (box[0] + 3, box[1] + 3, box[2] - 3, box[3] - 3), 1)
        else:
            solid_box(pen, box, class_color(0), 2)
        pen.text((box[2] + 7, top + size / 2), text, _GRAY, letters, anchor="lm")
        left = box[2] + 7 + math.ceil(letters.getlength(text)) + 2 * _GAP
