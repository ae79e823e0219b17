"""Boxes and labels drawn onto images, grids of images, and what all figures share."""

import colorsys
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..datasets.errors import DataError
from ..datasets.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..datasets.types import Detections, DetectionTarget
    from .inference.detection import DetectionResult
    from .inference.face_attributes import FaceDescription

_Box = tuple[float, float, float, float]
_Color = tuple[int, int, int]

PALETTE = ("#1f5fa8", "#d1622b", "#3a8f5c", "#8a5bb0", "#b08a1e", "#5a6b78")
"""Colors of the series of a figure."""
_WHITE: _Color = (255, 255, 255)
_INK: _Color = (20, 20, 24)
_HALO = (0, 0, 0, 150)
_TRUTH_LABEL = (20, 20, 24, 190)


class BoxArrays(NamedTuple):
    """N boxes of an image, detected or annotated; what can be drawn without torch."""

    boxes: np.ndarray
    """(N, 4) float64, xyxy in pixels."""
    labels: np.ndarray
    """(N,) int64, class indices."""
    scores: np.ndarray
    """(N,) float64; 1 for annotations."""
    crowd: np.ndarray
    """(N,) bool, regions to ignore; False for detections."""

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], labels: Mapping[int, int]) -> "BoxArrays":
        """Collect rows of COCO's annotations or results; ``labels`` is category id -> label."""
        boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return cls(
            boxes,
            np.array([labels[row["category_id"]] for row in rows], dtype=np.int64),
            np.array([row.get("score", 1.0) for row in rows], dtype=np.float64),
            np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=bool),
        )

    def scaled(self, factor: float) -> "BoxArrays":
        """Return them on a scaled image."""
        return self._replace(boxes=self.boxes * factor)


class _Look(NamedTuple):
    """The look of a label."""

    font: ImageFont.FreeTypeFont
    background: tuple[int, ...]
    color: _Color
    may_hide: float
    """Pixels of other labels and of boxes; it is left out where it would hide more."""


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        DataError: The name does not end in .png.
    """
    check_png(path)
    write_atomically(path, png_of(figure))


def png_of(figure: "Figure") -> bytes:
    """Render a figure as PNG.

    Names from data are no formulas, whatever dollars they hold. Labels of ticks at powers of ten,
    which are, have no text before the figure is drawn.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if "$" in text.get_text():
            text.set_parse_math(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def check_png(path: Path) -> None:
    """Check that the name of an image ends in .png.

    Raises:
        DataError: It does not.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: images are written as .png")


def draw_detections(
    image: np.ndarray,
    detections: "Detections | DetectionResult | BoxArrays",
    names: Sequence[str],
    score_threshold: float = 0.3,
    truth: "DetectionTarget | BoxArrays | None" = None,
) -> np.ndarray:
    """Draw detections (solid, a color for each class or track) and annotations (dashed white).

    Labels stay inside the image and, where there is room, do not overlap; those of high score are
    placed first. Faces, which have landmarks, are labeled with the score alone, and only where that
    hides no other face. An annotated box is labeled if no drawn detection of its class covers it
    (IoU 0.5) and its label hides no other. Lines and letters scale with the image.

    Args:
        image: (H, W, 3) uint8, RGB; not changed.
        detections: Detections of this image: boxes (K, 4) xyxy in its pixels, scores (K,), labels
            (K,); rows with label -1 are padding.
        names: Class names by class index.
        score_threshold: Minimum score of the detections that are drawn.
        truth: Annotations of this image: boxes (N, 4) xyxy in its pixels, labels (N,), crowd (N,).

    Returns:
        (H, W, 3) uint8, RGB.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    line = max(2, round(max(canvas.size) / 220))
    letters = max(11, round(max(canvas.size) * 0.025))
    bold, small = font(letters, bold=True), font(max(10, round(letters * 0.9)))
    found = _best_first(detections, score_threshold, canvas.size)
    actual = _truth_rows(truth, canvas.size)
    for box, _, label, track in reversed(found):
        solid_box(pen, box, class_color(label if track < 0 else track), line)
    for box, _, _ in actual:
        dashed_box(pen, box, max(1, line // 2))
    points: Any = getattr(detections, "landmarks", None)
    if points is not None:
        _draw_landmarks(pen, points[detections.scores >= score_threshold], line)
    taken: list[_Box] = []
    for box, score, label, track in found:
        red, green, blue = class_color(label if track < 0 else track)
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma of ITU-R BT.601
        look = _Look(bold, (red, green, blue), _INK if bright else _WHITE, math.inf)
        text, hideable = f"{names[label]} {score:.2f}", []
        if points is not None:
            # A label is larger than many a face of a crowd.
            look = look._replace(font=small, may_hide=(box[2] - box[0]) * (box[3] - box[1]) / 8)
            text, hideable = f"{score:.2f}", [other for other, *_ in found]
        number = "" if track < 0 else f"#{track} "
        _label(pen, number + text, box, look, taken, hideable)
    for box, label, crowd in actual:
        if not any(label == other and _iou(box, drawn) >= 0.5 for drawn, _, other, _ in found):
            look = _Look(small, _TRUTH_LABEL, _WHITE, 0)
            _label(pen, names[label] + " (crowd)" * crowd, box, look, taken)
    return np.asarray(canvas)


def _draw_landmarks(pen: ImageDraw.ImageDraw, faces: Any, line: int) -> None:
    """Draw the points (K, 5, 2) of faces: white dots with a dark rim, smaller on small faces."""
    for points in faces:
        dot = min(line * 0.7, max(0.5, 0.05 * float(np.ptp(points, axis=0).max())))
        for x, y in points.tolist():
            for radius, color in ((dot + min(dot, 1), _HALO), (dot, _WHITE)):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def class_color(label: int) -> _Color:
    """Return a vivid color for a class index; those of neighboring indices differ clearly."""
    hue = (0.33 + label * 0.618034) % 1.0  # steps of the golden ratio never come close to a cycle
    lightness = (0.55, 0.68, 0.45)[label // 8 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _best_first(
    detections: "Detections | DetectionResult | BoxArrays", threshold: float, size: tuple[int, int]
) -> list[tuple[_Box, float, int, int]]:
    """Return box, score, label and number of the track, -1 for none."""
    columns = (detections.boxes, detections.scores, detections.labels)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    tracks = getattr(detections, "tracks", None)
    numbers = [-1] * len(rows) if tracks is None else tracks.tolist()
    drawn = [
        (_clipped(box, size), score, label, number)
        for (box, score, label), number in zip(rows, numbers, strict=True)
        if label >= 0 and score >= threshold
    ]
    return sorted(drawn, key=lambda row: -row[1])


def _truth_rows(
    truth: "DetectionTarget | BoxArrays | None", size: tuple[int, int]
) -> list[tuple[_Box, int, bool]]:
    if truth is None:
        return []
    rows = zip(truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), strict=True)
    return [(_clipped(box, size), label, crowd) for box, label, crowd in rows if label >= 0]


def _clipped(box: Sequence[float], size: tuple[int, int]) -> _Box:
    """Clip a box to the image, so that its lines are visible."""
    x1, y1 = (min(max(value, 0), most - 1) for value, most in zip(box[:2], size, strict=True))
    x2, y2 = (min(max(value, 0), most - 1) for value, most in zip(box[2:], size, strict=True))
    return x1, y1, max(x1, x2), max(y1, y2)


def solid_box(pen: ImageDraw.ImageDraw, box: _Box, color: _Color, line: int) -> None:
    """Draw the box of a detection: colored lines of some pixels with a dark rim."""
    x1, y1, x2, y2 = map(round, box)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_HALO, width=line + 2)
    pen.rectangle((x1, y1, x2, y2), outline=color, width=line)


def dashed_box(pen: ImageDraw.ImageDraw, box: _Box, line: int) -> None:
    """Draw the box of an annotation: white dashes of some pixels with a dark rim."""
    x1, y1, x2, y2 = box
    edges = [(x1, y1, x2, y1), (x2, y1, x2, y2), (x2, y2, x1, y2), (x1, y2, x1, y1)]
    dashes = [dash for edge in edges for dash in _dashes(edge, 4 * line + 2)]
    for dash in dashes:
        pen.line(dash, fill=_HALO, width=line + 2)
    for dash in dashes:
        pen.line(dash, fill=_WHITE, width=line)


def _dashes(edge: _Box, length: float) -> Iterator[_Box]:
    """Divide an edge into dashes of about this length with gaps as long, a dash at either end."""
    x1, y1, x2, y2 = edge
    pieces = 2 * int(math.hypot(x2 - x1, y2 - y1) / (2 * length)) + 1
    width, height = (x2 - x1) / pieces, (y2 - y1) / pieces
    for piece in range(0, pieces, 2):
        x, y = x1 + width * piece, y1 + height * piece
        yield x, y, x + width, y + height


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: _Box,
    look: _Look,
    taken: list[_Box],
    boxes: Sequence[_Box] = (),
) -> None:
    """Write a label beside its box, and add its place to ``taken``.

    It is put where it overlaps ``taken`` and ``boxes`` least.
    """
    size = pen.im.size
    text = shortened(text, size[0] - 6, look.font)
    width, height = math.ceil(look.font.getlength(text)) + 6, round(look.font.size * 1.35)
    places = list(_places(box, (width, height), size))
    hidden = [sum(_overlap(place, other) for other in (*taken, *boxes)) for place in places]
    least = min(hidden)
    place = places[hidden.index(least)]
    if least > look.may_hide:
        return
    taken.append(place)
    pen.rectangle(place, fill=look.background)
    middle = (place[0] + 3, (place[1] + place[3]) / 2)
    pen.text(middle, text, look.color, look.font, anchor="lm")


def _places(box: _Box, label: tuple[int, int], size: tuple[int, int]) -> Iterator[_Box]:
    """Yield the possible places of a label: above, inside and below its box, left and right."""
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
    """Shorten a text in the middle until it fits a width in pixels."""
    kept = len(text)
    short = text
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return short


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib: many alphabets, the same on every machine.

    An install for inference alone has no matplotlib, and takes Pillow's own font of Latin letters.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def draw_caption(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Write lines onto the upper left corner of an image (H, W, 3) uint8 RGB; returns a copy."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    size = max(_SMALLEST_LETTERS, round(max(canvas.size) * 0.025))
    letters, step = font(size), round(size * 1.25)
    cut = [shortened(line, canvas.width - 12, letters) for line in lines]
    width = max((letters.getlength(line) for line in cut), default=0)
    pen.rectangle((0, 0, width + 12, step * len(cut) + 6), fill=_PANEL)
    for row, line in enumerate(cut):
        pen.text((6, 3 + row * step), line, _INK, letters)
    return np.asarray(canvas)


def draw_boxes(image: np.ndarray, boxes: Iterable[np.ndarray]) -> np.ndarray:
    """Draw boxes (4,) xyxy onto an image (H, W, 3) uint8 RGB, each in a color; returns a copy."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    line = max(2, round(max(canvas.size) / 220))
    for number, box in enumerate(boxes):
        solid_box(pen, _clipped(box.tolist(), canvas.size), class_color(number), line)
    return np.asarray(canvas)


_PANEL = (255, 255, 255, 205)
_SMALLEST_LETTERS = 10
_LEGIBLE_PX = 640


def draw_attributes(image: np.ndarray, faces: Sequence["FaceDescription"]) -> np.ndarray:
    """Draw a box around each face and list its predicted attributes beside it.

    The list is right of the box, or left of it where there is more room; the attribute that is
    furthest above its threshold comes first, and those that do not fit are counted in the last
    line. An image without a side of 640 px is enlarged by a whole number to make room for names.

    Args:
        image: (H, W, 3) uint8, RGB; not changed.
        faces: The faces of this image.

    Returns:
        (k H, k W, 3) uint8, RGB; k is 1 unless the image is small.
    """
    canvas = Image.fromarray(image)
    scale = math.ceil(_LEGIBLE_PX / max(canvas.size))
    canvas = canvas.resize((canvas.width * scale, canvas.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas, "RGBA")
    line = max(2, round(max(canvas.size) / 300))
    for number, face in enumerate(faces):
        x1, y1, x2, y2 = (float(value) * scale for value in face.box)
        solid_box(pen, (x1, y1, x2, y2), class_color(number), line)
        _list_beside(pen, (x1, y1, x2), face, class_color(number))
    return np.asarray(canvas)


def _list_beside(
    pen: ImageDraw.ImageDraw,
    box: tuple[float, float, float],
    face: "FaceDescription",
    color: _Color,
) -> None:
    probabilities, thresholds = face.probabilities, face.thresholds
    named = sorted(face.names, key=lambda name: thresholds[name] - probabilities[name])
    lines = [f"{name.replace('_', ' ')} {probabilities[name]:.2f}" for name in named]
    lines = lines or ["no attribute"]
    width, height = pen.im.size
    size = max(_SMALLEST_LETTERS, round(max(width, height) * 0.02))
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
    """Scale an image (H, W, 3) uint8 to a cell of the grid, at most 360 x 480 pixels.

    Returns:
        The scaled image, and the factor by which its boxes have to be scaled, too.
    """
    height, width = image.shape[:2]
    scale = min(_CELL_HW[0] / height, _CELL_HW[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method), scale


def make_grid(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, score_threshold: float
) -> np.ndarray:
    """Lay images out in rows, with a caption under each, and a title and a legend on top.

    Args:
        images: Arrays (H, W, 3) uint8 RGB of any sizes, at least one.
        captions: A line for each; shortened in the middle if it is too long.
        title: A line on top.
        score_threshold: Minimum score of the drawn detections, for the legend.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    # A grid that is wider than high and leaves few cells empty.
    least = math.ceil(math.sqrt(len(images)))
    columns = min(range(least, least + 3), key=lambda count: (-len(images) % count, count))
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
