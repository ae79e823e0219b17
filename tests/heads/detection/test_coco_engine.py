"""The twelve numbers: against pycocotools, by hand, and at the edges."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobilevision.datasets.errors import DataError
from mobilevision.heads.detection.coco_metrics import NUMBER_KEYS, evaluate_boxes

TRUTH_FILE = "coco_eval/instances_val2014_100_gt.json"
RESULTS_FILE = "coco_eval/instances_val2014_fakebbox100_results.json"


def reference(
    truth: dict[str, Any], results: list[dict[str, Any]], image_ids: list[int] | None = None
) -> tuple[dict[str, float], dict[str, float | None]]:
    """The twelve numbers and AP by class name, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)
        api.createIndex()
        found = api.loadRes(copy.deepcopy(results)) if results else COCO()
        evaluation = COCOeval(api, found, "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    per_class: dict[str, float | None] = {}
    for index, category in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][:, :, index, 0, -1]
        measured = precision[precision > -1]
        per_class[api.cats[category]["name"]] = float(measured.mean()) if measured.size else None
    return dict(zip(NUMBER_KEYS, map(float, evaluation.stats), strict=True)), per_class


def box_case(bbox: list[float], **annotation: Any) -> dict[str, Any]:
    row = {"id": 1, "image_id": 1, "category_id": 3, "bbox": bbox, "iscrowd": 0, **annotation}
    return {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [row],
        "categories": [{"id": 3, "name": "raccoon"}, {"id": 7, "name": "cat"}],
    }


def found(bbox: list[float], score: float = 0.9, image_id: int = 1) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 3, "bbox": bbox, "score": score}


@pytest.mark.real_data
def test_evaluate_boxes__real_results_give_the_expected_numbers_of_pycocotools(
    real_data: Path,
) -> None:
    truth = json.loads((real_data / TRUTH_FILE).read_text())
    results = json.loads((real_data / RESULTS_FILE).read_text())
    lines = (real_data / "coco_eval/expected.txt").read_text().splitlines()
    expected = {key: float(value) for key, value in map(str.split, lines)}

    result = evaluate_boxes(truth, results, "val2014")
    numbers, per_class = reference(truth, results)

    assert result.numbers == pytest.approx(expected, abs=5e-7)
    assert result.numbers == pytest.approx(numbers, abs=1e-9)
    assert result.per_class == pytest.approx(per_class, abs=1e-9)
    assert result.numbers["AP"] == pytest.approx(0.503647, abs=5e-7)
    assert result.images == 100


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_evaluate_boxes__random_cases_equal_pycocotools(
    seed: int, crowded: bool, random_case: Callable
) -> None:
    truth, results = random_case(seed, crowded)

    result = evaluate_boxes(truth, results, "random")
    numbers, per_class = reference(truth, results)

    assert result.numbers == pytest.approx(numbers, abs=1e-9)
    assert result.per_class == pytest.approx(per_class, abs=1e-9)
    assert result.per_class["unicorn"] is None
    assert 0 < result.numbers["AP"] < 1


def test_evaluate_boxes__a_part_of_the_images_equals_pycocotools(random_case: Callable) -> None:
    truth, results = random_case(7)
    part = sorted(image["id"] for image in truth["images"])[2:9]

    result = evaluate_boxes(truth, results, "random", image_ids=part)

    assert result.numbers == pytest.approx(reference(truth, results, part)[0], abs=1e-9)
    assert (result.images, result.images_total) == (7, 12)


def test_evaluate_boxes__without_detections_measured_numbers_are_zero() -> None:
    result = evaluate_boxes(box_case([10, 10, 100, 100], area=10_000.0), [], "nothing found")

    missing = {"APs", "APm", "ARs", "ARm"}
    assert result.numbers == {key: -1.0 if key in missing else 0.0 for key in NUMBER_KEYS}
    assert result.per_class == {"raccoon": 0.0, "cat": None}


def test_evaluate_boxes__without_images_nothing_is_measured() -> None:
    result = evaluate_boxes(box_case([10, 10, 50, 50]), [], "empty", image_ids=[])

    assert set(result.numbers.values()) == {-1.0}
    assert result.per_class == {"raccoon": None, "cat": None}
    assert result.images == 0


def test_evaluate_boxes__by_hand_a_box_of_iou_three_quarters_gives_six_tenths() -> None:
    """IoU 0.76 passes 0.50, 0.55, ... 0.75: six of ten thresholds, each with AP and AR 1."""
    truth = box_case([0, 0, 100, 100])
    result = evaluate_boxes(truth, [found([0, 0, 76, 100])], "by hand")

    assert result.numbers["AP"] == pytest.approx(0.6)
    assert result.numbers["AP50"] == pytest.approx(1.0)
    assert result.numbers["AP75"] == pytest.approx(1.0)
    assert result.numbers["AR1"] == pytest.approx(0.6)
    assert result.numbers["APl"] == pytest.approx(0.6)


def test_evaluate_boxes__by_hand_a_better_scored_miss_halves_the_precision() -> None:
    truth = box_case([0, 0, 40, 40])
    results = [found([0, 0, 40, 40], 0.5), found([200, 200, 40, 40], 0.9, image_id=2)]

    assert evaluate_boxes(truth, results, "by hand").numbers["AP"] == pytest.approx(0.5)


def test_evaluate_boxes__area_of_the_annotation_decides_the_range() -> None:
    detections = [found([0, 0, 40, 40])]

    by_mask = evaluate_boxes(box_case([0, 0, 40, 40], area=900.0), detections, "mask area")
    by_box = evaluate_boxes(box_case([0, 0, 40, 40]), detections, "box area")

    assert (by_mask.numbers["APs"], by_mask.numbers["APm"]) == (pytest.approx(1), -1)
    assert (by_box.numbers["APs"], by_box.numbers["APm"]) == (-1, pytest.approx(1))


def test_evaluate_boxes__detections_in_a_crowd_are_ignored() -> None:
    truth = box_case([0, 0, 40, 40])
    crowd = {**truth["annotations"][0], "id": 2, "bbox": [100, 100, 200, 200], "iscrowd": 1}
    truth["annotations"].append(crowd)
    results = [found([120 + 20 * i, 130, 40, 40], 0.95) for i in range(5)]

    with_crowd = evaluate_boxes(truth, [found([0, 0, 40, 40]), *results], "crowd")

    assert with_crowd.numbers["AP"] == pytest.approx(1.0)


def test_evaluate_boxes__annotation_id_zero_counts_like_any_other() -> None:
    result = evaluate_boxes(box_case([0, 0, 40, 40], id=0), [found([0, 0, 40, 40])], "id 0")

    assert result.numbers["AP"] == pytest.approx(1.0)


def test_evaluate_boxes__leaves_its_arguments_and_the_terminal_alone(
    capfd: pytest.CaptureFixture[str], random_case: Callable
) -> None:
    truth, results = random_case(1)
    before = copy.deepcopy((truth, results))

    evaluate_boxes(truth, results, "quiet")

    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")


def test_evaluate_boxes__unknown_image_is_named() -> None:
    with pytest.raises(DataError, match="my data: the ground truth has no image with id 41, 42"):
        evaluate_boxes(box_case([0, 0, 4, 4]), [], "my data", image_ids=[1, 42, 41])


def test_evaluate_boxes__two_categories_of_one_name_stay_apart() -> None:
    truth = box_case([0, 0, 40, 40])
    truth["categories"][1]["name"] = "raccoon"

    result = evaluate_boxes(truth, [found([0, 0, 40, 40])], "twins")

    assert result.per_class == {"raccoon (3)": pytest.approx(1.0), "raccoon (7)": None}


def test_as_dict__holds_the_keys_of_coco_metrics_json() -> None:
    result = evaluate_boxes(box_case([0, 0, 40, 40]), [found([0, 0, 40, 40])], "keys")

    assert list(result.as_dict()) == [*NUMBER_KEYS, "per_class", "images", "dataset"]
    assert json.loads(result.to_json()) == result.as_dict()
