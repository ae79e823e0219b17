"""Pictures laid out in a grid with captions, a title and a legend."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .boxes import class_colour, dashed_box, font, shortened, solid_box

_PAGE = (247, 247, 245)
_INK: _Colour = (20, 20, 24)
_GREY = (95, 95, 100)

_GAP = 12
_CELL_HW = (360, 480)
_CAPTION_SIZE = 13
_TITLE_SIZE = 17


def fit_picture(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale a picture to a cell of the grid.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        the scaled picture, at most 360 x 480 pixels; the factor by which its boxes scale too.
    """
    height, width = image.shape[:2]
    scale = min(_CELL_HW[0] / height, _CELL_HW[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method), scale


def make_grid(
    pictures: Sequence[np.ndarray], captions: Sequence[str], title: str, score_threshold: float
) -> np.ndarray:
    """Lay pictures out in rows, with a caption under each, a title and a legend above all.

    Args:
        pictures: arrays (H, W, 3) uint8 RGB of any sizes, at least one.
        captions: a line for each; cut in the middle where it is too long.
        title: a line on top.
        score_threshold: what the legend says of the detections that are drawn.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    columns = _columns_for(len(pictures))
    cell = max(picture.shape[1] for picture in pictures)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    below, head = _CAPTION_SIZE + 2 * _GAP, _TITLE_SIZE + _CAPTION_SIZE + 4 * _GAP
    size = (columns * (cell + _GAP) + _GAP, head + sum(heights) + below * len(rows))
    page = Image.new("RGB", size, _PAGE)
    pen = ImageDraw.Draw(page, "RGBA")
    title_letters = font(_TITLE_SIZE, bold=True)
    pen.text((_GAP, _GAP), shortened(title, size[0] - 2 * _GAP, title_letters), _INK, title_letters)
    _legend(pen, _TITLE_SIZE + 2 * _GAP, score_threshold)
    letters = font(_CAPTION_SIZE)
    top = head
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left = _GAP + column * (cell + _GAP)
        inset = (cell - picture.shape[1]) // 2
        page.paste(Image.fromarray(picture), (left + inset, top + heights[row] - picture.shape[0]))
        caption = shortened(captions[index], cell, letters)
        pen.text((left + cell // 2, top + heights[row] + 5), caption, _GREY, letters, anchor="ma")
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
            pen.rectangle(box, fill=_GREY)
            dashed_box(pen, (box[0] + 3, box[1] + 3, box[2] - 3, box[3] - 3), 1)
        else:
            solid_box(pen, box, class_colour(0), 2)
        pen.text((box[2] + 7, top + size / 2), text, _GREY, letters, anchor="lm")
        left = box[2] + 7 + math.ceil(letters.getlength(text)) + 2 * _GAP
