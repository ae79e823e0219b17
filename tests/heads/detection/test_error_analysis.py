"""Thresholds, confusions and kinds of errors: by hand, and against independent implementations."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import confusion_matrix, precision_recall_curve

from mobilevision.datasets.errors import DataError
from mobilevision.heads.detection.error_analysis import (
    ERROR_KINDS,
    ErrorAnalysis,
    analyze_errors,
    best_threshold,
)

CAT, DOG = 3, 7
CATEGORIES = {CAT: "cat", DOG: "dog"}


def scene(*objects: tuple[int, int], crowd: tuple[int, int] | None = None) -> dict[str, Any]:
    """Ground truth of one image: boxes of 10 x 10 at (category, x), a crowd region of 50 x 10."""
    rows = [(category, [x, 0, 10, 10], 0) for category, x in objects]
    rows += [(crowd[0], [crowd[1], 0, 50, 10], 1)] if crowd else []
    return {
        "images": [{"id": 1}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": category, "bbox": box, "iscrowd": kept_out}
            for number, (category, box, kept_out) in enumerate(rows, 1)
        ],
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }


def found(*detections: tuple[int, int, float]) -> list[dict[str, Any]]:
    """Detections of (category, x, score), 10 x 10 as well."""
    return [
        {"image_id": 1, "category_id": category, "bbox": [x, 0, 10, 10], "score": score}
        for category, x, score in detections
    ]


def costs(analysis: ErrorAnalysis) -> dict[str, float]:
    return {name: kind.ap50_cost for name, kind in analysis.kinds.items()}


def test_analyze_errors__one_of_each_kind__counts_and_costs_by_hand() -> None:
    truth = scene((CAT, 0), (DOG, 100), (CAT, 200), (CAT, 300))
    detections = found(
        (CAT, 0, 0.9),
        (CAT, 1, 0.8),  # duplicate
        (CAT, 100, 0.7),  # classification
        (CAT, 306, 0.6),  # localization: IoU 4 / 16
        (DOG, 306, 0.5),  # both
        (DOG, 500, 0.4),  # background
    )
    analysis = analyze_errors(truth, detections, "scene")
    # Of 101 points of recall, 34 are at most 1/3, 67 at most 2/3 and 51 at most 1/2.
    assert analysis.ap50 == pytest.approx((34 + 0) / 101 / 2)
    assert {name: kind.total for name, kind in analysis.kinds.items()} == dict.fromkeys(
        ERROR_KINDS, 1
    )
    assert costs(analysis) == pytest.approx(
        {
            "classification": 101 / 101 / 2,  # the dog is found, before its false detections
            "localization": 33 * (2 / 4) / 101 / 2,
            "both": 0,
            "duplicate": 0,
            "background": 0,
            "missed": (51 - 34) / 101 / 2,
        }
    )
    # From 0.85 on: one of four objects, and nothing false.
    assert analysis.best == pytest.approx((0.85, 1, 1 / 4, 2 / 5))
    at_best = {name: kind.at_best for name, kind in analysis.kinds.items() if kind.at_best}
    assert at_best == {"missed": 3}
    assert analysis.confusion.tolist() == [[1, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert [tuple(row) for row in analysis.worst] == [(1, {"missed": 3})]
    assert analysis.per_class["cat"] == (3, pytest.approx(34 / 101), *(
        pytest.approx((0.85, 1, 1 / 3, 1 / 2)),) * 2)  # fmt: skip
    assert analysis.per_class["dog"][:3] == (1, 0, None)


def test_analyze_errors__duplicate_and_background_before_a_hit__cost_its_precision() -> None:
    truth = scene((CAT, 0), (CAT, 200))
    both = found((CAT, 0, 0.9), (CAT, 1, 0.8), (CAT, 500, 0.7), (CAT, 200, 0.6))
    analysis = analyze_errors(truth, both, "scene")
    # 51 points at precision 1 and 50 at 2/4; without either of the two, 50 at 2/3.
    assert analysis.ap50 == pytest.approx((51 + 50 * 2 / 4) / 101)
    gained = pytest.approx(50 * (2 / 3 - 2 / 4) / 101)
    assert (costs(analysis)["duplicate"], costs(analysis)["background"]) == (gained, gained)


def test_analyze_errors__two_errors_on_one_object__the_better_one_is_corrected() -> None:
    truth = scene((CAT, 0))
    detections = found((CAT, 6, 0.9), (DOG, 0, 0.8), (CAT, 5, 0.7))
    analysis = analyze_errors(truth, detections, "scene")
    assert {name: row.total for name, row in analysis.kinds.items() if row.total} == {
        "localization": 2,
        "classification": 1,
    }
    # The dog is not corrected to a cat, since the first box would find it.
    assert costs(analysis) == pytest.approx(dict.fromkeys(ERROR_KINDS, 0) | {"localization": 1})
    assert analysis.best is None
    assert analysis.confusion.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_analyze_errors__confusion__a_wrong_class_a_miss_and_background() -> None:
    truth = scene((CAT, 0), (CAT, 100), (DOG, 200), (DOG, 300))
    detections = found(
        (CAT, 0, 0.9), (CAT, 200, 0.8), (CAT, 500, 0.75), (CAT, 100, 0.7), (CAT, 201, 0.72),
        (CAT, 300, 0.1),
    )  # fmt: skip
    analysis = analyze_errors(truth, detections, "scene")
    # F1 at 0.9, 0.8, 0.75, 0.72 and 0.7: 2/5, 2/6, 2/7, 2/8 and 4/9; then 4/10.
    assert analysis.best == pytest.approx((0.4, 2 / 5, 1 / 2, 4 / 9))
    # Of the two cats on a dog, one is its confusion and the other is on background.
    assert analysis.confusion.tolist() == [[2, 0, 0], [1, 0, 1], [2, 0, 0]]


def test_best__equal_scores_and_the_last_score__count_together() -> None:
    truth = scene((CAT, 0), (CAT, 100))
    both = found((CAT, 0, 0.5), (CAT, 500, 0.5), (CAT, 100, 0.5))
    assert analyze_errors(truth, both, "scene").best == pytest.approx((0.5, 2 / 3, 1, 4 / 5))


def test_analyze_errors__crowd__its_class_is_ignored_as_in_coco() -> None:
    truth = scene((CAT, 0), crowd=(CAT, 100))
    detections = found((CAT, 0, 0.9), (CAT, 100, 0.8), (CAT, 95, 0.7), (DOG, 110, 0.6))
    detections += found((CAT, 94, 0.5))  # 4 of 10 lie in the crowd
    analysis = analyze_errors(truth, detections, "scene")
    assert analysis.per_class["cat"].objects == 1
    assert {name: row.total for name, row in analysis.kinds.items() if row.total} == {
        "background": 2  # the dog, and the cat that is mostly outside
    }
    assert analysis.decisions[30].tolist() == pytest.approx([1 / 3, 1, 1 / 2])


def test_analyze_errors__empty__is_defined() -> None:
    nothing = analyze_errors({**scene(), "images": []}, [], "none")
    only_found = analyze_errors(scene(), found((CAT, 0, 0.9)), "no objects")
    only_objects = analyze_errors(scene((CAT, 0)), [], "no detections")
    assert (nothing.images, nothing.ap50, nothing.best, nothing.worst) == (0, None, None, [])
    assert (only_found.ap50, only_found.best) == (None, None)
    assert only_found.kinds["background"].total == 1
    assert only_found.per_class["cat"] == (0, None, None, None)
    assert (only_objects.ap50, only_objects.kinds["missed"].total) == (0, 1)
    assert only_objects.confusion.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    no_classes = analyze_errors({**scene(), "annotations": [], "categories": []}, [], "no classes")
    assert (no_classes.images, no_classes.ap50, no_classes.per_class) == (1, None, {})
    for analysis in (nothing, only_found, only_objects, no_classes):
        read = json.loads(analysis.to_json())
        assert read["dataset"] == analysis.dataset
        assert list(read["errors"]) == list(ERROR_KINDS)


def test_analyze_errors__unknown_image__is_named() -> None:
    with pytest.raises(DataError, match="scene: the ground truth has no image with id 9"):
        analyze_errors(scene(), [], "scene", image_ids=[1, 9])


def reference(truth: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def matches(evaluation: COCOeval) -> dict[int, int]:
    """Detection -> object that it finds at an IoU of 0.5, -1 in a crowd, 0 if neither."""
    return {
        found: -1 if ignored else int(truth)
        for image in evaluation.evalImgs
        if image is not None and image["aRng"] == evaluation.params.areaRng[0]
        for found, truth, ignored in zip(
            image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True
        )
    }


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_analyze_errors__random_cases__precision_of_pycocotools_and_f1_of_scikit_learn(
    seed: int, crowded: bool, random_case: Callable
) -> None:
    truth, results = random_case(seed, crowded)
    analysis = analyze_errors(truth, results, "random")
    evaluation = reference(truth, results)
    expected = evaluation.eval["precision"][0, :, :, 0, -1].T
    measured = expected[:, 0] >= 0
    np.testing.assert_allclose(analysis.precision[measured], expected[measured], atol=1e-9)
    assert np.isnan(analysis.precision[~measured]).all()
    assert analysis.ap50 == pytest.approx(expected[measured].mean())

    scores = {row["id"]: row["score"] for row in evaluation.cocoDt.dataset["annotations"]}
    kept = {key: truth_id for key, truth_id in matches(evaluation).items() if truth_id >= 0}
    objects = sum(not row["iscrowd"] for row in truth["annotations"])
    missed = objects - sum(truth_id > 0 for truth_id in kept.values())
    precision, recall, thresholds = precision_recall_curve(
        [truth_id > 0 for truth_id in kept.values()] + [True] * missed,
        [scores[key] for key in kept] + [-1.0] * missed,
    )
    start = int(missed > 0)  # without the point at which the missed objects count as detected
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[start:-1]
    best = int(f1.argmax())
    assert analysis.best is not None
    assert analysis.best[1:] == pytest.approx(
        (precision[start:][best], recall[start:][best], f1[best])
    )
    below = thresholds[start:][best - 1] if best else thresholds[start:][best]
    assert below <= analysis.best.threshold <= thresholds[start:][best]
    image_ids = [image["id"] for image in truth["images"]]
    names = {row["id"]: row["name"] for row in truth["categories"]}
    assert best_threshold(truth, results, "", names, image_ids) == analysis.best.threshold


@pytest.mark.parametrize("seed", range(5))
def test_analyze_errors__random_cases__confusion_of_a_plain_loop_and_scikit_learn(
    seed: int, random_case: Callable
) -> None:
    truth, results = random_case(seed)
    analysis = analyze_errors(truth, results, "random")
    assert analysis.best is not None
    evaluation = reference(truth, results)
    detections = {row["id"]: row for row in evaluation.cocoDt.dataset["annotations"]}
    shown = {key: at for key, at in matches(evaluation).items()
             if at >= 0 and detections[key]["score"] >= analysis.best.threshold}  # fmt: skip
    objects = {row["id"]: row for row in truth["annotations"] if not row["iscrowd"]}
    pairs = [(objects[at]["category_id"], detections[key]["category_id"])
             for key, at in shown.items() if at]  # fmt: skip
    free = set(objects) - set(shown.values())
    for key in sorted((key for key, at in shown.items() if not at),
                      key=lambda key: -detections[key]["score"]):  # fmt: skip
        near = [(iou(detections[key]["bbox"], objects[at]["bbox"]), at) for at in free
                if objects[at]["image_id"] == detections[key]["image_id"]
                and objects[at]["category_id"] != detections[key]["category_id"]]  # fmt: skip
        overlap, at = max(near, default=(0.0, 0))
        actual = objects[at]["category_id"] if overlap >= 0.5 else 0
        free -= {at} if actual else set()
        pairs.append((actual, detections[key]["category_id"]))
    pairs += [(objects[at]["category_id"], 0) for at in free]
    labels = [*(row["id"] for row in truth["categories"]), 0]
    expected = confusion_matrix(*zip(*pairs, strict=True), labels=labels)
    assert analysis.confusion.tolist() == expected.tolist()
    assert np.trace(analysis.confusion) == pytest.approx(analysis.best.recall * len(objects))


def iou(first: list[float], second: list[float]) -> float:
    sides = [
        max(0, min(first[axis] + first[axis + 2], second[axis] + second[axis + 2])
            - max(first[axis], second[axis]))
        for axis in (0, 1)
    ]  # fmt: skip
    shared = sides[0] * sides[1]
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def disturbed(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Detections thrice, moved sideways, every fifth of another class, of distinct scores."""
    categories = sorted({row["category_id"] for row in truth["annotations"]})
    rows = []
    for number, row in enumerate(results * 3):
        x, y, width, height = row["bbox"]
        moved = x + (number * 37 % 101 / 101 - 0.5) * 1.4 * width
        other = categories[number * 13 % len(categories)]
        category = row["category_id"] if number % 5 else other
        score = (number * 7919 + 1) % 10007 / 10007
        rows.append({**row, "bbox": [moved, y, width, height], "category_id": category,
                     "score": score})  # fmt: skip
    return rows


TIDECV = {  # 1.0.1, mean over the classes with objects
    "classification": (335, 0.069445),
    "localization": (749, 0.305644),
    "both": (303, 0.013485),
    "duplicate": (352, 0.018056),
    "background": (5, 0.000247),
    "missed": (105, 0.036962),
}


@pytest.mark.real_data
def test_analyze_errors__disturbed_coco_results__kinds_and_costs_of_tidecv(real_data: Path) -> None:
    folder = real_data / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100_gt.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    analysis = analyze_errors(truth, disturbed(truth, results), "disturbed")
    assert {name: kind.total for name, kind in analysis.kinds.items()} == {
        name: count for name, (count, _) in TIDECV.items()
    }
    # Its grid of recalls differs from COCO's in the last bit, which matters at 0.29 and the like.
    assert costs(analysis) == pytest.approx(
        {name: cost for name, (_, cost) in TIDECV.items()}, abs=1e-4
    )
    assert analysis.ap50 == pytest.approx(0.245627, abs=1e-4)
