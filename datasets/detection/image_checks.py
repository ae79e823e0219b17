"""Checks of annotations against their images: existence, size and EXIF rotation.

Boxes are in the pixels of the declared width and height. Where that is the size of the upright
image (EXIF rotation applied), they fit. Where it is the size as stored and EXIF turns the image
by a quarter, the boxes were drawn on the unturned image and are turned with it. An image that
EXIF mirrors or turns by half has the same size either way and counts as annotated upright.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from ..data_errors import FaultKind
from ..errors import DataError
from ..files import existing_files
from ..images import ImageFile
from ..transforms.geometry import MIRRORED
from .annotations import Annotations

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Extensions, in lower case, of the files that count as images."""


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and below it, sorted, without `hidden` ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden(path, folder)
    )


def hidden(path: Path, folder: Path) -> bool:
    """Return whether a file or a folder above it, below ``folder``, has a leading dot.

    Archives made on macOS have a hidden ``._a.xml`` beside ``a.xml``; Jupyter keeps copies.
    """
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def turn_boxes(boxes: np.ndarray, stored_hw: tuple[int, int], orientation: int) -> np.ndarray:
    """Move boxes (N, 4) xyxy from the pixels of the stored image to those of the upright image.

    ``stored_hw`` is the size of the stored image, ``orientation`` is EXIF's from 1 to 8 (CIPA
    DC-008, tag 0x0112). The dtype is kept.
    """
    height, width = stored_hw
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    if orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    if orientation >= 5:
        x0, y0, x1, y1 = y0, x0, y1, x1
    return np.stack([x0, y0, x1, y1], axis=-1).astype(boxes.dtype)


def turn_landmarks(
    points: np.ndarray | None, stored_hw: tuple[int, int], orientation: int
) -> np.ndarray | None:
    """Move landmarks (N, 5, 2) as `turn_boxes` does; they are swapped where the image is mirrored.

    None stays None.
    """
    if points is None:
        return None
    turned = turn_boxes(np.concatenate([points, points], axis=-1), stored_hw, orientation)[..., :2]
    return turned[:, list(MIRRORED)] if orientation in (2, 4, 5, 7) else turned


def quarter_turn(image: ImageFile, declared_hw: tuple[int, int]) -> int | None:
    """Return the EXIF orientation to turn boxes by, or None if they fit the upright image.

    The header of the image is compared with the height and width of the annotations.

    Raises:
        DataError: the image cannot be read, or has another size than declared.
    """
    height, width = image.size_hw
    if (height, width) == declared_hw:
        return None
    if (width, height) == declared_hw:
        with Image.open(image.path) as header:
            orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in (5, 6, 7, 8):
            return orientation
    raise DataError(
        f"{image.path}: the image is {width}x{height} pixels, but the annotations declare "
        f"{declared_hw[1]}x{declared_hw[0]}. {FaultKind.SIZE.fix}"
    )


def drop_missing(annotations: Annotations) -> Annotations:
    """Leave out images whose file does not exist; folders are listed, no file is opened.

    If the annotations' ``on_error`` is "raise", a missing file is a `DataError`.
    """
    present = existing_files(annotations.images.paths)
    faults = annotations.faults.copy()
    faults.add_where(
        FaultKind.MISSING, ~present, lambda row: f"{annotations.images.paths[row]}: no such image"
    )
    return replace(annotations.select(present), faults=faults)


def fit_to_images(annotations: Annotations) -> Annotations:
    """Read every image's header: turn boxes with EXIF rotation, leave out what is wrong.

    The result's sizes and boxes, also those of its ground truth, are those of the upright images.

    Raises:
        DataError: an image is missing, unreadable or of another size than declared, and the
            annotations' ``on_error`` is "raise".
    """
    annotations = drop_missing(annotations)
    faults = annotations.faults.copy()
    sizes_hw = annotations.images.sizes_hw.copy()
    xywh, xyxy = annotations.boxes.xywh.copy(), annotations.boxes.xyxy.copy()
    points = annotations.boxes.landmarks
    points = None if points is None else points.copy()
    good = np.ones(len(annotations), dtype=bool)
    for index, path in enumerate(annotations.images.paths):
        image, declared_hw = ImageFile(path), (int(sizes_hw[index, 0]), int(sizes_hw[index, 1]))
        kind = FaultKind.UNREADABLE
        try:
            upright_hw = image.size_hw
            kind = FaultKind.SIZE
            orientation = quarter_turn(image, declared_hw)
        except DataError as error:
            faults.add(kind, str(error))
            good[index] = False
            continue
        if orientation is not None:
            rows = slice(annotations.starts[index], annotations.starts[index + 1])
            corners = xywh[rows].copy()
            corners[:, 2:] += corners[:, :2]
            turned = turn_boxes(corners, declared_hw, orientation)
            xywh[rows] = np.concatenate([turned[:, :2], turned[:, 2:] - turned[:, :2]], axis=1)
            xyxy[rows] = turn_boxes(xyxy[rows], declared_hw, orientation)
            if points is not None:
                points[rows] = turn_landmarks(points[rows], declared_hw, orientation)
            sizes_hw[index] = upright_hw
    fitted = replace(
        annotations,
        images=annotations.images._replace(sizes_hw=sizes_hw),
        boxes=annotations.boxes._replace(xywh=xywh, xyxy=xyxy, landmarks=points),
        faults=faults,
    )
    return fitted.select(good)
