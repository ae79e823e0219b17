"""COCO average precision and recall for boxes, batch by batch, under any number of processes.

torch is imported only where tensors arrive, so a results file is evaluated without it.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import read_json, write_atomically
from ..distributed import all_gather

if TYPE_CHECKING:
    from torch import Tensor

    from ...datasets.types import Detections

NO_GROUND_TRUTH = -1.0
"""The value of pycocotools where there is no ground truth."""

_LINES = {  # key: measure, IoU, area of the objects, detections of each class in an image
    "AP": ("Average Precision  (AP)", "0.50:0.95", "all", 100),
    "AP50": ("Average Precision  (AP)", "0.50", "all", 100),
    "AP75": ("Average Precision  (AP)", "0.75", "all", 100),
    "APs": ("Average Precision  (AP)", "0.50:0.95", "small", 100),
    "APm": ("Average Precision  (AP)", "0.50:0.95", "medium", 100),
    "APl": ("Average Precision  (AP)", "0.50:0.95", "large", 100),
    "AR1": ("Average Recall     (AR)", "0.50:0.95", "all", 1),
    "AR10": ("Average Recall     (AR)", "0.50:0.95", "all", 10),
    "AR100": ("Average Recall     (AR)", "0.50:0.95", "all", 100),
    "ARs": ("Average Recall     (AR)", "0.50:0.95", "small", 100),
    "ARm": ("Average Recall     (AR)", "0.50:0.95", "medium", 100),
    "ARl": ("Average Recall     (AR)", "0.50:0.95", "large", 100),
}
NUMBER_KEYS = tuple(_LINES)
"""The keys of the twelve numbers, in the order of pycocotools' ``stats``."""


@dataclass(frozen=True)
class CocoResult:
    """The measures of an evaluation."""

    numbers: dict[str, float]
    """The twelve numbers by key (:data:`NUMBER_KEYS`), in [0, 1]; -1 where no object counts."""
    per_class: dict[str, float | None]
    """AP by class name, in the order of the categories; None for a class without ground truth."""
    images: int
    """Images evaluated."""
    images_total: int
    """Images in the ground truth; more than ``images`` when only a part was seen."""
    dataset: str
    """Name of the dataset, such as "COCO val2017"."""

    def as_dict(self) -> dict[str, Any]:
        """Return the twelve numbers by key, then ``per_class``, ``images`` and ``dataset``."""
        names = ("per_class", "images", "dataset")
        return self.numbers | {name: getattr(self, name) for name in names}

    def to_json(self) -> str:
        """Return ``as_dict`` as indented JSON with a line feed at its end."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def evaluate_boxes(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    dataset: str,
    categories: dict[int, str] | None = None,
    image_ids: Iterable[int] | None = None,
) -> CocoResult:
    """Measure detections against ground truth. Neither is changed.

    Area ranges use the annotation's ``area`` (the box area where it has none). Crowd boxes are
    ignored regions.

    Args:
        ground_truth: A COCO annotation file as dict.
        results: COCO results: image_id, category_id, bbox (x, y, width, height in pixels), score.
        dataset: The name to report.
        categories: Category id to name of the classes to measure; by default all.
        image_ids: The images to measure on; by default all, with or without results. A
            `DataError` if the ground truth lacks one.
    """
    described = {image["id"] for image in ground_truth["images"]}
    wanted = described if image_ids is None else set(image_ids)
    if unknown := wanted - described:
        raise unknown_images(dataset, unknown)
    names = categories or {row["id"]: row["name"] for row in ground_truth["categories"]}
    if wanted and names:
        stats, precision = _run_engine(ground_truth["annotations"], results, names, wanted)
    else:
        stats, precision = [NO_GROUND_TRUTH] * len(NUMBER_KEYS), np.full((len(names), 1), -1.0)
    by_id = dict(zip(sorted(names), map(_mean_of_measured, precision), strict=True))
    labels = distinct_names(names)
    return CocoResult(
        numbers=dict(zip(NUMBER_KEYS, map(float, stats), strict=True)),
        per_class={labels[category]: by_id[category] for category in names},
        images=len(wanted),
        images_total=len(described),
        dataset=dataset,
    )


def _run_engine(
    annotations: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    names: dict[int, str],
    image_ids: set[int],
) -> tuple[Sequence[float], np.ndarray]:
    """Return the twelve numbers, and the precision (classes, IoU x recall), classes by id."""
    from faster_coco_eval import COCO, COCOeval_faster

    def index(rows: Iterable[dict[str, Any]]) -> COCO:
        # The engine takes the annotation id 0 for "no match".
        numbered = [{**row, "id": number} for number, row in enumerate(rows, start=1)]
        return COCO(
            {
                "images": [{"id": image_id} for image_id in sorted(image_ids)],
                "annotations": [row for row in numbered if row["image_id"] in image_ids],
                "categories": [{"id": key, "name": name} for key, name in names.items()],
            }
        )

    evaluation = COCOeval_faster(
        index(map(_truth_row, annotations)), index(map(_result_row, results)), "bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"])  # IoU, recall, class, area, detections
    return evaluation.stats, np.moveaxis(precision[:, :, :, 0, -1], 2, 0).reshape(len(names), -1)


def _truth_row(row: dict[str, Any]) -> dict[str, Any]:
    width, height = row["bbox"][2:]
    kept = {key: row[key] for key in ("image_id", "category_id", "bbox")}
    area, crowd = row.get("area", width * height), int(row.get("iscrowd", 0))
    return {**kept, "area": area, "iscrowd": crowd}


def _result_row(row: dict[str, Any]) -> dict[str, Any]:
    width, height = row["bbox"][2:]
    return {**{key: row[key] for key in _RESULT_KEYS}, "area": width * height, "iscrowd": 0}


def _mean_of_measured(precision: np.ndarray) -> float | None:
    measured = precision[precision > NO_GROUND_TRUTH]
    return float(measured.mean()) if measured.size else None


def distinct_names(names: dict[int, str]) -> dict[int, str]:
    """Add the id to names that several categories share, so that none hides another."""
    counts = Counter(names.values())
    if len(counts) == len(names):
        return dict(names)
    return distinct_names(  # what was added may make it the name of another
        {key: name if counts[name] == 1 else f"{name} ({key})" for key, name in names.items()}
    )


def unknown_images(dataset: str, image_ids: Iterable[int]) -> DataError:
    """Return the error for images that the ground truth lacks; it names the first five."""
    some = ", ".join(map(str, sorted(image_ids)[:5]))
    return DataError(
        f"{dataset}: the ground truth has no image with id {some}. "
        "Evaluate with the annotation file that the images were read with."
    )


_TABLE_WIDTH = 80
_LONGEST_NAME = 24


class _Found(NamedTuple):
    """The K detections in one image, in pixels of the original image; labels are class indices."""

    boxes_xywh: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class CocoEvaluator:
    """Collects detections batch by batch and measures them.

    Right under torch.distributed: detections are gathered by image id, and the duplicates with
    which Lightning pads the last batch are dropped. Only images that were seen are measured, so
    ``limit_val_batches`` works. For the arguments see `evaluate_boxes`; class index i is the
    i-th of ``categories``.
    """

    def __init__(
        self, ground_truth: dict[str, Any], categories: dict[int, str], dataset: str
    ) -> None:
        self.ground_truth = ground_truth
        self.categories = categories
        self.dataset = dataset
        self._known = {image["id"] for image in ground_truth["images"]}
        self._category_ids = np.array(list(categories), dtype=np.int64)
        self._found: dict[int, _Found] = {}

    def update(self, image_ids: "Tensor", detections: "Detections") -> None:
        """Add a batch. An image that was seen already keeps its first detections.

        Image ids (B,) are those of the ground truth; boxes are in pixels of the original
        images, and rows with label -1 are padding.

        Raises:
            DataError: The ground truth lacks an image or a class.
            ValueError: A box or score is not finite, or a box has a negative size.
        """
        ids: list[int] = image_ids.tolist()
        if unknown := set(ids) - self._known:
            raise unknown_images(self.dataset, unknown)
        boxes = detections.boxes.detach().cpu().double().numpy()
        scores = detections.scores.detach().cpu().double().numpy()
        labels = detections.labels.cpu().numpy()
        real = labels >= 0
        xywh = np.concatenate((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), axis=-1)
        finite = np.isfinite(xywh).all(axis=-1) & np.isfinite(scores)
        bad = real & ~(finite & (xywh[..., 2:] >= 0).all(axis=-1))
        if bad.any():
            image, row = np.argwhere(bad)[0]
            raise ValueError(
                f"image {ids[image]}: detection {row} has the box (x, y, width, height) "
                f"{xywh[image, row].tolist()} and the score {scores[image, row]}. The weights may "
                "hold NaN: has the training diverged?"
            )
        if labels.max(initial=0) >= len(self._category_ids):
            raise DataError(
                f"{self.dataset}: the model finds class {labels.max()}, the data has "
                f"{len(self._category_ids)} classes. Evaluate on data with the model's classes."
            )
        for row, image_id in enumerate(ids):
            kept = real[row]
            found = _Found(xywh[row][kept], scores[row][kept], labels[row][kept])
            self._found.setdefault(image_id, found)

    def gather(self) -> None:
        """Give every process the detections of all; call it on all of them.

        Where two processes saw the same image, the one of lower rank counts on all.
        """
        merged: dict[int, _Found] = {}
        for part in reversed(all_gather(self._found)):
            merged.update(part)
        self._found = merged

    @property
    def image_ids(self) -> list[int]:
        """The images seen so far, after ``gather`` or ``compute`` those of all processes."""
        return sorted(self._found)

    def results(self) -> list[dict[str, Any]]:
        """Return the detections so far in the COCO results format, by image id.

        After ``gather`` or ``compute``, those of all processes.
        """
        rows: list[dict[str, Any]] = []
        for image_id, found in sorted(self._found.items()):
            categories = self._category_ids[found.labels].tolist()
            rows += [
                {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
                for category, box, score in zip(
                    categories, found.boxes_xywh.tolist(), found.scores.tolist(), strict=True
                )
            ]
        return rows

    def compute(self) -> CocoResult:
        """Gather, then measure; call it on all processes, which get the same result."""
        self.gather()
        return evaluate_boxes(
            self.ground_truth, self.results(), self.dataset, self.categories, self._found
        )


def write_metrics(path: Path, result: CocoResult) -> None:
    """Write the result as JSON (``coco_metrics.json``), atomically."""
    write_atomically(path, result.to_json().encode())


def format_table(result: CocoResult) -> str:
    """Format the twelve numbers as pycocotools prints them, and the classes by falling AP.

    A line has at most 80 characters; a class without ground truth has "-".
    """
    part = f" of {result.images_total:,}" if result.images < result.images_total else ""
    images = "image" if result.images == 1 and not part else "images"
    lines = [f"COCO boxes on {result.dataset}: {result.images:,}{part} {images}"]
    for key, (measure, iou, area, most) in _LINES.items():
        lines.append(
            f" {measure} @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] "
            f"= {result.numbers[key]:.3f}"
        )
    if NO_GROUND_TRUTH in result.numbers.values():
        lines.append(" -1.000: the ground truth has no such object")
    measured = sum(value is not None for value in result.per_class.values())
    lines.append(f"AP of each class ({measured} of {len(result.per_class)} have ground truth)")
    return "\n".join(lines + _class_columns(result.per_class)) + "\n"


def _class_columns(per_class: dict[str, float | None]) -> list[str]:
    ordered = sorted(per_class.items(), key=lambda item: -1 if item[1] is None else item[1])[::-1]
    width = min(max(map(len, per_class), default=0), _LONGEST_NAME)
    cells = [
        f" {name if len(name) <= width else name[: width - 1] + '…':<{width}} "
        f"{'    -' if value is None else f'{value:.3f}'}"
        for name, value in ordered
    ]
    columns = max(1, (_TABLE_WIDTH + 2) // (width + 9))
    height = -(-len(cells) // columns)
    return ["  ".join(cells[row::height]) for row in range(height)]


_TRUTH_LISTS = ("images", "annotations", "categories")
_OPTIONAL_KEYS = ("area", "iscrowd", "segmentation")
_RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO annotation file and check all that an evaluation of boxes uses.

    That are ``images`` (``id``), ``categories`` (``id``, ``name``) and ``annotations`` (``id``,
    ``image_id``, ``category_id``, ``bbox`` as x, y, width, height in pixels; ``area`` and
    ``iscrowd`` where the file has them).

    Raises:
        DataError: The file is missing or damaged, lacks a list or a key, or has a bad annotation.
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
    """Read and check detections in the COCO results format.

    That is a JSON list of ``{image_id, category_id, bbox: [x, y, width, height], score}``, in
    pixels of the original images.

    Raises:
        DataError: The file is missing or damaged, or has a bad entry.
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
            "Give the ground truth of the same images, or remove the entry"
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
