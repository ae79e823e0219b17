"""COCO ground truth and results files, read with every mistake named. Free of torch.

The formats: https://cocodataset.org/#format-data and https://cocodataset.org/#format-results.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...datasets.errors import DataError
from ...datasets.files import read_json

_TRUTH_LISTS = ("images", "annotations", "categories")
_OPTIONAL_KEYS = ("area", "iscrowd", "segmentation")
_RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read the ground truth of a data set and check all that an evaluation of boxes uses.

    Args:
        path: a COCO annotation file ("instances_val2017.json").

    Returns:
        The content: ``images`` (``id``), ``categories`` (``id``, ``name``) and ``annotations``
        (``id``, ``image_id``, ``category_id``, ``bbox`` as x, y, width, height in pixels; ``area``
        and ``iscrowd`` where the file has them).

    Raises:
        DataError: the file is missing or not JSON, lacks a list or a key, names an image or a
            category that it does not describe, or has a box that is none.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: ground truth is one JSON object with {', '.join(_TRUTH_LISTS)}, this is a "
            f"{type(content).__name__}. Is this the results file?"
        )
    for key in _TRUTH_LISTS:
        if not isinstance(content.get(key), list):
            raise DataError(f"{path}: lacks the list '{key}'. Give a COCO annotation file.")
    image_ids = _described_ids(path, content["images"], "images", ("id",))
    category_ids = _described_ids(path, content["categories"], "categories", ("id", "name"))
    for index, annotation in enumerate(content["annotations"]):
        if isinstance(annotation, dict):  # null is how some tools write "not stated"
            for key in _OPTIONAL_KEYS:
                if annotation.get(key, 0) is None:
                    del annotation[key]
        problem = _annotation_problem(annotation, image_ids, category_ids)
        if problem:
            name = annotation.get("id", "none") if isinstance(annotation, dict) else "none"
            raise DataError(
                f"{path}: annotations[{index}] (id {name}) {problem}. Correct or remove it."
            )
    return content


def read_results(path: Path, ground_truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Read detections in the COCO results format.

    Args:
        path: a JSON list of ``{image_id, category_id, bbox: [x, y, width, height], score}``,
            pixels of the original pictures.
        ground_truth: what the results are for, from :func:`read_ground_truth`.

    Returns:
        The entries as they are in the file.

    Raises:
        DataError: names the file, the index of the first bad entry, what is wrong and what to do:
            no JSON, no list, a key that is missing, an id that the ground truth does not have, a
            box or a score that is not finite, a negative width or height.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path}: results are a JSON list of {{{', '.join(_RESULT_KEYS)}}}, this is a "
            f"{type(content).__name__}. Is this the ground truth?"
        )
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    for index, entry in enumerate(content):
        problem = _result_problem(entry, image_ids, category_ids)
        if problem:
            raise DataError(f"{path}: entry {index} {problem}.")
    return content


def _described_ids(path: Path, rows: list[Any], list_name: str, keys: tuple[str, ...]) -> set[int]:
    ids: set[int] = set()
    for index, row in enumerate(rows):
        missing = _missing_keys(row, keys)
        if missing:
            raise DataError(f"{path}: {list_name}[{index}] {missing}. Add it.")
        if not isinstance(row.get("name", ""), str):
            raise DataError(
                f"{path}: {list_name}[{index}] has the name {row['name']!r:.60}. Give it text."
            )
        if not isinstance(row["id"], int) or row["id"] in ids:
            raise DataError(
                f"{path}: {list_name}[{index}] has the id {row['id']!r}, which is "
                "taken already or no integer. Number them anew."
            )
        ids.add(row["id"])
    return ids


def _missing_keys(row: Any, keys: Collection[str]) -> str:
    if not isinstance(row, dict):
        return f"is no JSON object but {row!r:.60}"
    missing = [key for key in keys if key not in row]
    return f"lacks {', '.join(missing)}" if missing else ""


def _annotation_problem(
    annotation: Any, image_ids: Collection[int], category_ids: Collection[int]
) -> str:
    problem = _missing_keys(annotation, ("id", "image_id", "category_id", "bbox"))
    if problem:
        return problem
    if not _is_known(annotation["image_id"], image_ids):
        return f"is on image {annotation['image_id']!r}, which 'images' does not have"
    if not _is_known(annotation["category_id"], category_ids):
        return f"has category {annotation['category_id']!r}, which 'categories' does not have"
    if not _is_finite(annotation.get("area", 0)):
        return f"has the area {annotation['area']!r}, not a number"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"has {annotation['iscrowd']!r} for iscrowd, which is 0 or 1"
    return _box_problem(annotation["bbox"])


def _result_problem(entry: Any, image_ids: Collection[int], category_ids: Collection[int]) -> str:
    problem = _missing_keys(entry, _RESULT_KEYS)
    if problem:
        return f"{problem}. Every entry needs {', '.join(_RESULT_KEYS)}"
    if not _is_known(entry["image_id"], image_ids):
        return (
            f"is for image {entry['image_id']!r}, which the ground truth does not have. "
            "Give the ground truth of the same pictures, or remove the entry"
        )
    if not _is_known(entry["category_id"], category_ids):
        return (
            f"has category {entry['category_id']!r}, which the ground truth does not have. "
            "Write the category ids of the ground truth, not class indices"
        )
    if not _is_finite(entry["score"]):
        return f"has the score {entry['score']!r}. Scores are finite numbers"
    problem = _box_problem(entry["bbox"])
    return f"{problem}. Boxes are [x, y, width, height] in pixels" if problem else ""


def _box_problem(box: Any) -> str:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return f"has the box {box!r:.80}, not four finite numbers"
    if box[2] < 0 or box[3] < 0:
        return f"has the box {box!r} of negative size"
    return ""


def _is_known(value: Any, ids: Collection[int]) -> bool:
    return isinstance(value, int | float) and value in ids


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
