"""The engine of COCO's measures for boxes: twelve numbers, and AP for each class. Free of torch.

The measure is pycocotools' COCOeval; the engine is faster-coco-eval, which computes the same
numbers in C++ (the tests hold the two together).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...datasets.errors import DataError

NO_GROUND_TRUTH = -1.0
"""What pycocotools gives where there is nothing to find, so that nothing can be measured."""

NUMBER_KEYS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""The keys of the twelve numbers, in the order of pycocotools' ``stats``."""


@dataclass(frozen=True)
class CocoResult:
    """What an evaluation found."""

    numbers: dict[str, float]
    """The twelve numbers by key (:data:`NUMBER_KEYS`), in [0, 1]; -1 where no object counts."""
    per_class: dict[str, float | None]
    """AP by class name, in the order of the categories; None for a class without ground truth."""
    images: int
    """Pictures evaluated."""
    images_total: int
    """Pictures in the ground truth; more than ``images`` when only a part was seen."""
    dataset: str
    """What was evaluated, as people call it: "COCO val2017"."""

    def as_dict(self) -> dict[str, Any]:
        """The twelve numbers by key, then ``per_class``, ``images`` and ``dataset``."""
        return {
            **self.numbers,
            "per_class": self.per_class,
            "images": self.images,
            "dataset": self.dataset,
        }

    def to_json(self) -> str:
        """:meth:`as_dict` as indented JSON with a line feed at its end."""
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
    ignored regions. Annotation ids do not matter: they are numbered anew, because the engines take
    the id 0 for "no match".

    Args:
        ground_truth: a COCO annotation file as dict.
        results: COCO results: image_id, category_id, bbox (x, y, width, height in pixels), score.
        dataset: the name to report.
        categories: category id to name of the classes to measure; by default all.
        image_ids: the pictures to measure on; by default all. One that no result names counts,
            with its objects as missed.

    Raises:
        DataError: an image id that the ground truth does not have.
    """
    described = {image["id"] for image in ground_truth["images"]}
    wanted = described if image_ids is None else set(image_ids)
    if unknown := wanted - described:
        raise unknown_images(dataset, unknown)
    names = categories or {row["id"]: row["name"] for row in ground_truth["categories"]}
    if wanted:
        stats, precision = _run_engine(ground_truth["annotations"], results, names, wanted)
    else:
        stats, precision = [NO_GROUND_TRUTH] * len(NUMBER_KEYS), np.full((len(names), 1), -1.0)
    by_id = dict(zip(sorted(names), map(_mean_of_measured, precision), strict=True))
    labels = _distinct_names(names)
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
    """Run faster-coco-eval.

    Returns:
        the twelve numbers; precision (classes, IoU x recall) for all areas, categories by id.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    def index(rows: Iterable[dict[str, Any]]) -> COCO:
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
    return {
        "image_id": row["image_id"],
        "category_id": row["category_id"],
        "bbox": row["bbox"],
        "area": row.get("area", width * height),
        "iscrowd": int(row.get("iscrowd", 0)),
    }


def _result_row(row: dict[str, Any]) -> dict[str, Any]:
    width, height = row["bbox"][2:]
    kept = {key: row[key] for key in ("image_id", "category_id", "bbox", "score")}
    return {**kept, "area": width * height, "iscrowd": 0}


def _mean_of_measured(precision: np.ndarray) -> float | None:
    measured = precision[precision > NO_GROUND_TRUTH]
    return float(measured.mean()) if measured.size else None


def _distinct_names(names: dict[int, str]) -> dict[int, str]:
    """Add the id to names that more than one category has, so that none hides another."""
    values = list(names.values())
    return {
        key: name if values.count(name) == 1 else f"{name} ({key})" for key, name in names.items()
    }


def unknown_images(dataset: str, image_ids: Iterable[int]) -> DataError:
    """The error for image ids that the ground truth does not have; names the first five."""
    some = ", ".join(map(str, sorted(image_ids)[:5]))
    return DataError(
        f"{dataset}: the ground truth has no image with id {some}. "
        "Evaluate with the annotation file that the pictures were read with."
    )
