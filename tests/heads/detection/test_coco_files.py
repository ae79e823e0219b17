"""Ground truth and results files: what is right is read, what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.heads.detection.coco_metrics import read_ground_truth, read_results

TRUTH: dict[str, Any] = {
    "images": [{"id": 5}, {"id": 8}],
    "annotations": [{"id": 31, "image_id": 5, "category_id": 2, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 2, "name": "cat"}],
}
GOOD = {"image_id": 8, "category_id": 2, "bbox": [0, 0, 10.5, 0], "score": 0.25}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_read_results__good_file_comes_back_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "results.json", [GOOD, {**GOOD, "image_id": 5, "more": 1}])

    assert read_results(path, TRUTH) == [GOOD, {**GOOD, "image_id": 5, "more": 1}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "entry 1 is for image 99, .* ground truth of the same images"),
        ({"image_id": "8"}, "entry 1 is for image '8'"),
        ({"image_id": [8]}, r"entry 1 is for image \[8\]"),
        ({"category_id": 0}, "entry 1 has category 0, .* not class indices"),
        ({"score": float("nan")}, "entry 1 has the score nan"),
        ({"score": "high"}, "entry 1 has the score 'high'"),
        ({"bbox": [0, 0, float("nan"), 4]}, "entry 1 has the box .*nan.*, not four finite"),
        ({"bbox": [0, 0, float("inf"), 4]}, "entry 1 has the box .*inf.*, not four finite"),
        ({"bbox": [0, 0, -3, 4]}, "entry 1 has the box .* of negative size.*width, height"),
        ({"bbox": [0, 0, 4]}, "entry 1 has the box .*, not four finite"),
        ({"bbox": None}, "entry 1 has the box None"),
    ],
)
def test_read_results__bad_entry_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "results.json", [GOOD, {**GOOD, **change}])

    with pytest.raises(DataError, match=f"results.json: {message}"):
        read_results(path, TRUTH)


@pytest.mark.parametrize("key", list(GOOD))
def test_read_results__entry_that_lacks_a_key_is_named(tmp_path: Path, key: str) -> None:
    entry = {name: value for name, value in GOOD.items() if name != key}
    path = write(tmp_path / "results.json", [entry])

    with pytest.raises(DataError, match=f"results.json: entry 0 lacks {key}.*needs image_id"):
        read_results(path, TRUTH)


def test_read_results__entry_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "results.json", [GOOD, 7])

    with pytest.raises(DataError, match="entry 1 is no JSON object but 7"):
        read_results(path, TRUTH)


def test_read_results__ground_truth_in_its_place_is_recognized(tmp_path: Path) -> None:
    path = write(tmp_path / "results.json", TRUTH)

    with pytest.raises(DataError, match=r"results.json: .*a dict. Is this the ground truth\?"):
        read_results(path, TRUTH)


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xfe\x00", b"image,score\n1,2\n"])
def test_read__not_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"broken\.json: not a JSON file"):
        read_results(path, TRUTH)
    with pytest.raises(DataError, match=r"broken\.json: not a JSON file"):
        read_ground_truth(path)


def test_read__missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json: no such file"):
        read_ground_truth(tmp_path / "gone.json")
    with pytest.raises(DataError, match=f"{tmp_path.name}: cannot be read"):
        read_ground_truth(tmp_path)


def test_read_ground_truth__good_file_comes_back_as_it_is(tmp_path: Path) -> None:
    assert read_ground_truth(write(tmp_path / "truth.json", TRUTH)) == TRUTH


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 6}, "is on image 6, which 'images' does not have"),
        ({"category_id": 1}, "has category 1, which 'categories' does not have"),
        ({"bbox": [1, 2, -3, 4]}, "of negative size"),
        ({"bbox": "none"}, "not four finite numbers"),
        ({"area": "large"}, "has the area 'large'"),
        ({"iscrowd": "yes"}, "has 'yes' for iscrowd"),
    ],
)
def test_read_ground_truth__bad_annotation_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], **change}]}
    path = write(tmp_path / "truth.json", truth)

    with pytest.raises(DataError, match=rf"truth.json: annotations\[0\] \(id 31\) .*{message}"):
        read_ground_truth(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "lacks the list 'annotations'"),
        ({"annotations": [{"id": 4}]}, r"\(id 4\) lacks image_id, category_id, bbox"),
        ({"annotations": [[]]}, r"\(id none\) is no JSON object"),
        ({"categories": [{"id": 2}]}, r"categories\[0\] lacks name"),
        ({"images": [{"id": 5}, {"id": 5}]}, r"images\[1\] has the id 5, which is taken"),
        ({"images": [{"id": "5"}]}, r"images\[0\] has the id '5', .* no integer"),
    ],
)
def test_read_ground_truth__bad_list_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "truth.json", {**TRUTH, **change})

    with pytest.raises(DataError, match=f"truth.json: .*{message}"):
        read_ground_truth(path)


def test_read_ground_truth__results_in_its_place_are_recognized(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a list. Is this the results file\?"):
        read_ground_truth(write(tmp_path / "truth.json", [GOOD]))


def test_read_ground_truth__optional_keys_are_null__as_if_not_there(tmp_path: Path) -> None:
    nothing = {"area": None, "iscrowd": None, "segmentation": None}
    truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], **nothing}]}
    (read,) = read_ground_truth(write(tmp_path / "truth.json", truth))["annotations"]
    assert not nothing.keys() & read.keys()


def test_read__very_deep_json__named(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"deep\.json: not a JSON file"):
        read_ground_truth(path)
    with pytest.raises(DataError, match=r"deep\.json: not a JSON file"):
        read_results(path, TRUTH)
