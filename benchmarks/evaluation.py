"""COCO evaluation: faster-coco-eval against pycocotools, on the same detections in one run.

    python benchmarks/evaluation.py                       # generated, of val2017's size
    python benchmarks/evaluation.py --images 500
    python benchmarks/evaluation.py --ground_truth gt.json --results results.json

The time includes the index of the ground truth and of the results, but not the reading of files.
The engines take turns.
"""

import contextlib
import copy
import io
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from mobilevision.heads.detection.coco_metrics import (
    NUMBER_KEYS,
    evaluate_boxes,
    read_ground_truth,
    read_results,
)

_CLASSES = 80
_BOXES_PER_IMAGE = 36_781 / 5_000  # val2017
_SIZE_PX = 640


def compare(
    ground_truth: Path | None = None,
    results: Path | None = None,
    images: int = 5000,
    detections: int = 50,
    repeats: int = 3,
) -> None:
    """Print the time of both engines, their ratio, and whether the twelve metrics agree.

    Args:
        ground_truth: annotations in the COCO format; generated where none are given.
        results: detections in the COCO results format, for the ground truth that is given.
        images: generated images.
        detections: generated detections in each image.
        repeats: runs of each engine; the medians are shown.
    """
    if (ground_truth is None) != (results is None):
        raise SystemExit("give both --ground_truth and --results, or neither")
    if ground_truth is not None and results is not None:
        truth = read_ground_truth(ground_truth)
        found = read_results(results, truth)
    else:
        truth, found = generate(images, detections)
    times: dict[str, list[float]] = {"pycocotools": [], "faster-coco-eval": []}
    numbers: dict[str, dict[str, float]] = {}
    engines = {"pycocotools": _run_pycocotools, "faster-coco-eval": _run_faster}
    for _ in range(repeats):
        for name, run in engines.items():
            arguments = copy.deepcopy((truth, found))  # pycocotools writes into its arguments
            start = time.perf_counter()
            numbers[name] = run(*arguments)
            times[name].append(time.perf_counter() - start)
    _print_table(truth, found, times, numbers)


def generate(
    images: int, detections: int, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Generate ground truth and results like val2017's: 80 classes, 7.4 boxes in an image.

    One box in a hundred is a crowd region. Half of the detections are moved ground truth, the
    others lie anywhere.

    Returns:
        a COCO annotation dict; a list of COCO results.
    """
    rng = np.random.default_rng(seed)
    count = round(images * _BOXES_PER_IMAGE)
    owners = rng.integers(images, size=count) + 1
    labels = rng.zipf(1.6, size=count) % _CLASSES + 1  # a few classes have most of the boxes
    boxes = _random_boxes(rng, count)
    areas = boxes[:, 2] * boxes[:, 3] * 0.7  # a mask fills about so much of its box
    truth = {
        "images": [{"id": index + 1} for index in range(images)],
        "annotations": _rows(
            id=np.arange(1, count + 1),
            image_id=owners,
            category_id=labels,
            bbox=boxes,
            area=areas,
            iscrowd=np.arange(count) % 100 // 99,
        ),
        "categories": [{"id": index + 1, "name": f"class {index}"} for index in range(_CLASSES)],
    }
    near = rng.integers(count, size=images * detections // 2)
    far = images * detections - len(near)
    moved = boxes[near] * rng.uniform(0.85, 1.15, size=(len(near), 4))
    found = _rows(
        image_id=np.concatenate((owners[near], rng.integers(images, size=far) + 1)),
        category_id=np.concatenate((labels[near], rng.integers(_CLASSES, size=far) + 1)),
        bbox=np.concatenate((moved, _random_boxes(rng, far))),
        score=np.concatenate((rng.beta(4, 2, size=len(near)), rng.beta(1, 4, size=far))),
    )
    return truth, found


def _rows(**columns: np.ndarray) -> list[dict[str, Any]]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    sizes = np.exp(rng.uniform(np.log(8), np.log(400), size=(count, 2)))
    return np.concatenate((rng.uniform(0, 1, size=(count, 2)) * (_SIZE_PX - sizes), sizes), axis=1)


def _run_faster(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    return evaluate_boxes(truth, found, "benchmark").numbers


def _run_pycocotools(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        api: Any = COCO()
        api.dataset = truth
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NUMBER_KEYS, map(float, evaluation.stats), strict=True))


def _print_table(
    truth: dict[str, Any],
    found: list[dict[str, Any]],
    times: dict[str, list[float]],
    numbers: dict[str, dict[str, float]],
) -> None:
    print(
        f"{len(truth['images']):,} images, {len(truth['annotations']):,} boxes, "
        f"{len(truth['categories'])} classes, {len(found):,} detections\n"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'engine':<18} {'median s':>9} {'min s':>8} {'runs':>5} {'ratio':>7}")
    for name, values in times.items():
        ratio = medians["pycocotools"] / medians[name]
        print(f"{name:<18} {medians[name]:9.2f} {min(values):8.2f} {len(values):5} {ratio:6.1f}x")
    reference, ours = numbers["pycocotools"], numbers["faster-coco-eval"]
    widest = max(abs(reference[key] - ours[key]) for key in NUMBER_KEYS)
    print(f"\nThe twelve numbers agree: {'yes' if widest < 1e-9 else 'NO'} "
          f"(largest difference {widest:.1e}; AP {ours['AP']:.6f})")  # fmt: skip


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
