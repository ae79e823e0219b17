"""Write an error analysis: ``errors.json``, figures, the worst images, and one page to send.

No torch.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.images import ImageFile
from ...heads.detection.coco_metrics import CocoResult
from ...heads.detection.error_analysis import ErrorAnalysis, ImageErrors
from ..drawing import BoxArrays, draw_detections, fit_image, make_grid, png_of

MOST_IMAGES = 12
"""Number of the worst images that are drawn."""
PAGE = "report.html"


class Evaluated(NamedTuple):
    """What was measured, in COCO's formats."""

    ground_truth: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    categories: Mapping[int, str]
    """Id -> name; the position is the class index."""
    paths: Mapping[int, str | Path]
    """Image id -> file, of the images that can be drawn."""


def write_report(
    folder: Path, coco: CocoResult, analysis: ErrorAnalysis, evaluated: Evaluated
) -> Path:
    """Write everything about a detector's errors; existing files are replaced.

    ``errors.json`` has all numbers, ``errors/`` the figures and the worst images as PNG, and
    ``report.html`` all of it in one file without references to others.

    Returns:
        The page; the numbers where matplotlib is not installed, which is printed.
    """
    numbers = folder / "errors.json"
    write_atomically(numbers, analysis.to_json().encode())
    try:
        from .figures import draw_all
        from .page import Picture, make_page
    except ModuleNotFoundError as error:
        print(f"{folder / PAGE} is not written: it needs {error.name}: pip install {error.name}")
        return numbers
    pictures = {}
    for name, figure in draw_all(analysis).items():
        png = png_of(figure)
        write_atomically(folder / "errors" / f"{name}.png", png)
        pictures[name] = Picture(png, "png")
    grid, unreadable = draw_worst(analysis, evaluated)
    if grid is not None:
        image = Image.fromarray(grid)
        write_atomically(folder / "errors" / "worst_images.png", _encoded(image, "PNG"))
        pictures["worst_images"] = Picture(_encoded(image, "JPEG"), "jpeg")
    page = folder / PAGE
    write_atomically(page, make_page(coco, analysis, pictures, unreadable).encode())
    return page


def draw_worst(
    analysis: ErrorAnalysis, evaluated: Evaluated
) -> tuple[np.ndarray | None, list[str]]:
    """Draw the images with the most errors at the best threshold, annotations dashed.

    Returns:
        A grid (H, W, 3) uint8 RGB, None if no image can be drawn; and why some cannot.
    """
    threshold = 1.0 if analysis.best is None else analysis.best.threshold
    drawable = [row for row in analysis.worst if row.image_id in evaluated.paths][:MOST_IMAGES]
    found, actual = _boxes_of(drawable, evaluated)
    images, captions, unreadable = [], [], []
    for row in drawable:
        path = Path(evaluated.paths[row.image_id])
        try:
            image, scale = fit_image(ImageFile(path).read())
        except DataError as error:
            unreadable.append(str(error))
            continue
        boxes, truth = (each[row.image_id].scaled(scale) for each in (found, actual))
        names = list(evaluated.categories.values())
        images.append(draw_detections(image, boxes, names, threshold, truth))
        errors = ", ".join(f"{count} {name}" for name, count in row.counts.items())
        captions.append(f"{path.name}: {errors}")
    if not images:
        return None, unreadable
    title = f"{analysis.dataset}: the images with the most errors"
    return make_grid(images, captions, title, threshold), unreadable


def _boxes_of(
    images: Sequence[ImageErrors], evaluated: Evaluated
) -> tuple[dict[int, BoxArrays], dict[int, BoxArrays]]:
    """Return detections and annotations of some images, by image id."""
    labels = {category: label for label, category in enumerate(evaluated.categories)}
    made: list[dict[int, BoxArrays]] = []
    for rows in (evaluated.results, evaluated.ground_truth["annotations"]):
        of_image: dict[int, list[Mapping[str, Any]]] = {row.image_id: [] for row in images}
        for row in rows:
            if row["image_id"] in of_image and row["category_id"] in labels:
                of_image[row["image_id"]].append(row)
        made.append({image: BoxArrays.of_rows(rows, labels) for image, rows in of_image.items()})
    return made[0], made[1]


def _encoded(image: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, quality=82)
    return content.getvalue()
