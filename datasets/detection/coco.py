"""Reading annotation files in COCO's format (https://cocodataset.org/#format-data).

Category and image ids may have gaps and come in any order, ``area`` and ``iscrowd`` may be absent,
further keys are ignored, but ``keypoints`` of five points, which are a face's landmarks: eyes,
nose, corners of the mouth, as seen in the image left before right. Needs no torch.
"""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from ..data_errors import FaultKind, Faults, OnError, data_log
from ..errors import DataError
from ..files import FileNames, read_json
from ..images import ImageFile
from .annotations import (
    TOLERANCE_PX,
    Annotations,
    BoxTable,
    ImageTable,
    check_boxes,
    find,
    first_occurrences,
)

_INTEGER = re.compile(r"\s*[-+]?\d{1,19}\s*")


class Column(NamedTuple):
    """A required key and the kind of its values."""

    key: str
    convert: Callable[[list[Any]], np.ndarray | None]
    """N values -> (N, ...) array, or None (or an error) if any of them is not of its kind."""
    demand: str
    """The kind, for messages."""


def whole_number(value: Any) -> int | None:
    """Return an integer of 64 bits, also if it is written as 1.0 or "1"; None for others."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(2**63) <= value < 2**63 else None


def integers(values: list[Any]) -> np.ndarray | None:
    """Return (N,) int64, also of integers as some labeling tools write them (1.0, "1")."""
    if not set(map(type, values)) <= {int}:
        values = [whole_number(value) for value in values]
        if None in values:
            return None
    return np.array(values, dtype=np.int64)


def sides(values: list[Any]) -> np.ndarray | None:
    """Return (N,) int64, all above zero."""
    array = integers(values)
    return array if array is not None and (array > 0).all() else None


def names(values: list[Any]) -> np.ndarray | None:
    """Return (N,) str objects, none of them empty."""
    right = set(map(type, values)) <= {str} and all(values)
    return np.array(values, dtype=object) if right else None


def quadruples(values: list[Any]) -> np.ndarray | None:
    """Return (N, 4) float64; NaN and infinity are allowed."""
    if not values:
        return np.zeros((0, 4))
    array = np.array(values)
    if array.dtype.kind == "U" and array.shape == (len(values), 4):
        # Numbers as text, as some labeling tools write them.
        array = np.array([[float(number) for number in box] for box in values])
    right = array.dtype.kind in "if" and array.shape == (len(values), 4)
    return array.astype(np.float64) if right else None


def read_columns(
    file: Path, what: str, entries: list[Any], columns: tuple[Column, ...], faults: Faults
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Read columns of N parsed objects, and add malformed ones to ``faults``.

    Returns the entries that are well formed, and one array for each column.
    """
    arrays = [_read(entries, column) for column in columns]
    if any(array is None for array in arrays):
        reasons = [_malformed(entry, columns) for entry in entries]
        faults.add_where(
            FaultKind.MALFORMED,
            np.array([bool(reason) for reason in reasons]),
            lambda row: f"{file}: {_label(what, entries[row], row)} {reasons[row]}",
        )
        entries = [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]
        arrays = [_read(entries, column) for column in columns]
    return entries, [array for array in arrays if array is not None]


def _read(entries: list[Any], column: Column) -> np.ndarray | None:
    try:
        return column.convert([entry[column.key] for entry in entries])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _malformed(entry: Any, columns: tuple[Column, ...]) -> str:
    """Describe the fault of an entry; empty if there is none."""
    if not isinstance(entry, dict):
        return "is not an object"
    for column in columns:
        if column.key not in entry:
            return f'lacks "{column.key}"'
        if _read([entry], column) is None:
            return f'has {entry[column.key]!r} for "{column.key}", which is not {column.demand}'
    return ""


def _label(what: str, entry: Any, row: int) -> str:
    if isinstance(entry, dict) and "id" in entry:
        return f"{what} {entry['id']}"
    return f"{what} number {row + 1} of the list"


# fmt: off
_COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack",
    "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball",
    "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair",
    "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse",
    "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)
# fmt: on
_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

COCO_CATEGORIES: dict[int, str] = dict(
    zip([i for i in range(1, 91) if i not in _UNUSED_IDS], _COCO_NAMES, strict=True)
)
"""COCO's 80 classes: category id (1 to 90, with gaps) -> name."""

OFFICIAL_FILES: dict[str, tuple[int, str]] = {
    "instances_train2017.json": (469_785_474, "COCO train2017"),
    "instances_val2017.json": (19_987_840, "COCO val2017"),
    "instances_train2014.json": (332_556_225, "COCO train2014"),
    "instances_val2014.json": (160_682_675, "COCO val2014"),
}
"""The released files: name -> size in bytes, name in results.

They are large, their categories are known, and users cannot correct them: annotation 918 of
train2017, for instance, has no height (github.com/cocodataset/cocoapi/issues/355).
"""


_PATH = "path of the file"  # a key added to the entries of images
_IMAGE_COLUMNS = (
    Column("id", integers, "an integer"),
    Column("file_name", names, "a name"),
    Column("height", sides, "an integer above zero"),
    Column("width", sides, "an integer above zero"),
)
_BOX_COLUMNS = (
    Column("id", integers, "an integer"),
    Column("image_id", integers, "an integer"),
    Column("category_id", integers, "an integer"),
    Column("bbox", quadruples, "four numbers [x, y, width, height]"),
)


def official_title(file: Path) -> str | None:
    """Return COCO's name of a released file, recognized by name and size; None for any other."""
    size, title = OFFICIAL_FILES.get(file.name, (-1, ""))
    return title if file.is_file() and file.stat().st_size == size else None


def read_coco(
    annotation_file: str | Path,
    images_dir: str | Path,
    categories: dict[int, str] | None = None,
    on_error: OnError = "raise",
) -> Annotations:
    """Read one annotation file. The images are not opened.

    Args:
        annotation_file: COCO-format JSON.
        images_dir: the folder that ``file_name`` is relative to.
        categories: id -> name of the classes to read, in class order; boxes of other declared
            classes are set aside. None: all that the file declares, by rising id.
        on_error: see `OnError`. In COCO's own releases, faulty entries are
            always left out and counted, and boxes that reach beyond the image are clipped.

    Raises:
        DataError: the file is absent, not JSON, lacks a list, declares other categories, or, under
            ``on_error="raise"``, has a faulty entry.
    """
    file, folder = Path(annotation_file), Path(images_dir)
    document = load_document(file)
    official = official_title(file)
    faults = Faults("skip" if official else on_error)
    declared = declared_categories(file, document)
    categories = _chosen(file, declared, categories)
    images = _read_images(file, folder, document["images"], faults)
    tolerance_px = math.inf if official else TOLERANCE_PX
    entries = document["annotations"]
    boxes, owners = _read_boxes(file, entries, images, declared, faults, tolerance_px)
    labels, chosen = find(np.array(list(categories), dtype=np.int64), boxes.labels)
    boxes = boxes._replace(labels=labels).take(chosen)
    title = official or "/".join(file.resolve().parts[-3:])
    faults.on_error = on_error
    annotations = Annotations.build(
        title, categories, images, boxes, owners=owners[chosen], faults=faults
    )
    return replace(annotations, set_aside=int((~chosen).sum()))


def load_document(file: Path) -> dict[str, Any]:
    """Parse an annotation file and check its three lists.

    Masks are dropped while parsing: they are most of the file and boxes do not need them.

    Raises:
        DataError: the file is absent, not JSON, or not in COCO's format.
    """

    def without_mask(entry: dict[str, Any]) -> dict[str, Any]:
        entry.pop("segmentation", None)
        return entry

    document = read_json(file, without_mask)
    if not isinstance(document, dict):
        raise DataError(
            f"{file}: holds a JSON {type(document).__name__}, but COCO's format is an object with "
            '"images", "annotations" and "categories". (A list is the format of results.)'
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise DataError(f'{file}: lacks the list "{key}". COCO\'s format needs it, even empty.')
    return document


def declared_categories(file: Path, document: dict[str, Any]) -> dict[int, str]:
    """Return the categories of a parsed file: id -> name, by rising id.

    Raises:
        DataError: there is none, or one is malformed, or an id or a name occurs twice.
    """
    declared: dict[int, str] = {}
    for entry in document["categories"]:
        category_id = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        if category_id is None or not isinstance(entry.get("name"), str):
            raise DataError(
                f'{file}: the category {entry!r} needs an integer "id" of at most 64 bits and a '
                '"name". Add them.'
            )
        if category_id in declared or entry["name"] in declared.values():
            raise DataError(
                f"{file}: category {category_id} ({entry['name']}) has an id or a name that "
                "another one has, too. Make both unique."
            )
        declared[category_id] = entry["name"]
    if not declared:
        raise DataError(f'{file}: "categories" is empty. Declare at least one class.')
    return dict(sorted(declared.items()))


def _chosen(file: Path, declared: dict[int, str], wanted: dict[int, str] | None) -> dict[int, str]:
    if wanted is None:
        return declared
    for category_id, name in wanted.items():
        # A model may know more classes than this file declares, but not by other names.
        if declared.get(category_id, name) != name:
            raise DataError(
                f"{file}: category {category_id} should be {name!r} but is "
                f"{declared[category_id]!r}. All files of a dataset, and the option categories, "
                "must agree."
            )
    if not wanted.keys() & declared.keys():
        raise DataError(
            f"{file}: declares none of the wanted categories {dict(list(wanted.items())[:5])}, "
            f"only {dict(list(declared.items())[:5])}. Name those of the file."
        )
    return dict(wanted)


def _read_images(file: Path, folder: Path, entries: list[Any], faults: Faults) -> ImageTable:
    files = FileNames(folder)
    entries = _with_paths_and_sizes(file, files, entries, faults)
    entries, columns = read_columns(file, "image", entries, _IMAGE_COLUMNS, faults)
    ids, file_names, heights, widths = columns
    files.warn_of_foreign(file)
    first = first_occurrences(ids)
    faults.add_where(
        FaultKind.DUPLICATE_IMAGE,
        ~first,
        lambda row: f"{file}: image id {ids[row]} ({file_names[row]}) is used twice",
    )
    paths = np.array([entry[_PATH] for entry in entries], dtype=object)
    table = ImageTable(ids, file_names, paths, np.stack([heights, widths], axis=1))
    return ImageTable(*(column[first] for column in table))


def _local_name(name: str) -> str:
    """Return the name of a file that Label Studio served from a folder of its machine."""
    address, _, local = name.partition("/data/local-files/?d=")
    return name if address or not local else unquote(local)


def _with_paths_and_sizes(
    file: Path, files: FileNames, entries: list[Any], faults: Faults
) -> list[Any]:
    """Add the path to the entries of images, and the size of the file to those that lack it.

    Entries that lead out of the folder, or whose file cannot be read for its size, are left out.
    """
    kept, measured = [], 0
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            kept.append(entry)  # reported as malformed later
            continue
        try:
            path = files.find(_local_name(entry["file_name"]))
        except ValueError as error:
            faults.add(FaultKind.MALFORMED, f"{file}: image {entry.get('id')}: file_name {error}")
            continue
        size = {}
        if None in (entry.get("height"), entry.get("width")):
            try:
                size["height"], size["width"] = ImageFile(path).size_hw
            except DataError as error:
                kind = FaultKind.UNREADABLE if path.is_file() else FaultKind.MISSING
                what = str(error) if path.is_file() else f"{path}: no such image"
                faults.add(kind, f"{file}: image without a size: {what}")
                continue
            measured += 1
        kept.append({**entry, _PATH: str(path), **size})
    if measured:
        data_log.warning(
            f"{file}: {measured:,} images have no width and height; they were read from the files"
        )
    return kept


def _read_boxes(
    file: Path,
    entries: list[Any],
    images: ImageTable,
    declared: dict[int, str],
    faults: Faults,
    tolerance_px: float,
) -> tuple[BoxTable, np.ndarray]:
    """Return the boxes, with category ids as labels, and the position of each one's image."""
    entries, columns = read_columns(file, "annotation", entries, _BOX_COLUMNS, faults)
    ids, image_ids, category_ids, xywh = columns
    ids, keep = _distinct_ids(file, columns, faults)
    owners, known = find(images.ids, image_ids)
    right = np.isin(category_ids, list(declared))

    def named(row: int) -> str:
        return f"{file}: annotation {ids[row]}"

    faults.add_where(
        FaultKind.UNKNOWN_IMAGE, ~known,
        lambda row: f'{named(row)} belongs to image {image_ids[row]}, which is not in "images"',
    )  # fmt: skip
    faults.add_where(
        FaultKind.UNKNOWN_CATEGORY, ~right,
        lambda row: f'{named(row)} has category {category_ids[row]}, which is not in "categories"',
    )  # fmt: skip
    keep &= known & right
    crowd = np.array([entry.get("iscrowd") in (1, "1") for entry in entries], dtype=bool)
    areas = np.array([_area(entry) for entry in entries], dtype=np.float64)
    areas = np.where(np.isfinite(areas), areas, xywh[:, 2] * xywh[:, 3])
    rows = np.flatnonzero(keep)
    xyxy, right = check_boxes(
        xywh[rows], images.sizes_hw[owners[rows]], faults, lambda row: named(rows[row]),
        tolerance_px=tolerance_px,
    )  # fmt: skip
    points = _landmarks(entries)
    boxes = BoxTable(
        ids[rows], xywh[rows], xyxy, category_ids[rows], crowd[rows], areas[rows],
        None if points is None else points[rows],
    )  # fmt: skip
    return boxes.take(right), owners[rows][right]


def _landmarks(entries: list[Any]) -> np.ndarray | None:
    """Return (N, 5, 2) float32 of ``keypoints`` of five points; None if no entry has such.

    Points that are not labeled (their third number is 0) and those of entries without five points
    are NaN.
    """
    points = np.full((len(entries), 5, 3), np.nan)
    for row, entry in enumerate(entries):
        values = entry.get("keypoints")
        if isinstance(values, list) and len(values) == 15:
            with suppress(TypeError, ValueError, OverflowError):
                points[row] = np.array(values, dtype=np.float64).reshape(5, 3)
    points[points[..., 2] == 0] = np.nan
    found = points[..., :2].astype(np.float32)
    return found if np.isfinite(found).any() else None


def _distinct_ids(
    file: Path, columns: list[np.ndarray], faults: Faults
) -> tuple[np.ndarray, np.ndarray]:
    """Renumber annotations whose id is taken, and find repeated annotations.

    Some tools write one id for all. Only an annotation with the id, image, category and box of
    another one is a repetition. Returns (N,) int64 ids without repetition, and (N,) bool:
    whether an annotation is kept.
    """
    ids = columns[0]
    first = first_occurrences(ids)
    if first.all():
        return ids, first
    # Floats cannot distinguish large ids, so each id is replaced by its rank.
    ranks = [np.unique(column, return_inverse=True)[1] for column in columns[:3]]
    numbers = np.column_stack([*ranks, columns[3]])
    alone = np.zeros(len(ids), dtype=bool)
    alone[np.unique(numbers, axis=0, return_index=True)[1]] = True

    def message(row: int) -> str:
        what = "numbered anew" if alone[row] else "the same annotation again, left out"
        return f"{file}: annotation id {ids[row]} is used twice ({what})"

    faults.add_where(FaultKind.DUPLICATE_ANNOTATION, ~first, message)
    again = np.flatnonzero(~first & alone)
    unused = np.setdiff1d(np.arange(1, len(ids) + len(again) + 1), ids)
    ids = ids.copy()
    ids[again] = unused[: len(again)]
    return ids, first | alone


def _area(entry: dict[str, Any]) -> float:
    try:
        return float(entry["area"]) if isinstance(entry.get("area"), int | float) else math.nan
    except OverflowError:  # an integer beyond the largest float
        return math.nan
