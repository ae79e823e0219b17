"""Collecting detections over batches and processes, and what is printed and written."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.types import Detections
from mobilevision.heads.detection.coco_metrics import (
    NUMBER_KEYS,
    CocoEvaluator,
    CocoResult,
    distinct_names,
    evaluate_boxes,
    format_table,
    write_metrics,
)

CATEGORIES = {3: "raccoon", 90: "unicorn"}
BOXES = {11: [10.0, 20.0, 50.0, 40.0], 12: [5.0, 5.0, 90.0, 110.0], 13: [0.0, 0.0, 20.0, 20.0]}


def truth() -> dict[str, Any]:
    return {
        "images": [{"id": image_id} for image_id in BOXES],
        "annotations": [
            {"id": image_id, "image_id": image_id, "category_id": 90, "bbox": box, "iscrowd": 0}
            for image_id, box in BOXES.items()
        ],
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }


def detections(image_ids: list[int], score: float = 0.5) -> Detections:
    """The true box of every image as class index 1, with one row of padding."""
    xywh = torch.tensor([BOXES[image_id] for image_id in image_ids])
    xyxy = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1)
    padding = torch.full_like(xyxy, math.nan)
    return Detections(
        torch.stack((xyxy, padding), dim=1),
        torch.tensor([[score, 0.0]] * len(image_ids)),
        torch.tensor([[1, -1]] * len(image_ids)),
    )


def evaluator() -> CocoEvaluator:
    return CocoEvaluator(truth(), CATEGORIES, "three images")


def result(per_class: dict[str, float | None], images: int = 4, value: float = 0.5) -> CocoResult:
    return CocoResult(dict.fromkeys(NUMBER_KEYS, value), per_class, images, 5000, "val")


def test_evaluator__perfect_detections_over_two_batches() -> None:
    metric = evaluator()
    metric.update(torch.tensor([11, 13]), detections([11, 13]))
    metric.update(torch.tensor([12]), detections([12]))
    found = metric.compute()

    assert found.numbers["AP"] == pytest.approx(1.0)
    assert found.per_class == {"raccoon": None, "unicorn": pytest.approx(1.0)}
    assert (found.images, found.dataset) == (3, "three images")


def test_evaluator__only_images_seen_count() -> None:
    metric = evaluator()
    metric.update(torch.tensor([12]), detections([12]))
    found = metric.compute()

    assert found.numbers["AR100"] == pytest.approx(1.0)
    assert (found.images, found.images_total) == (1, 3)


def test_evaluator__an_image_without_detections_was_seen() -> None:
    metric = evaluator()
    metric.update(torch.tensor([11, 12]), detections([11, 12]))
    nothing = Detections(torch.zeros(1, 0, 4), torch.zeros(1, 0), torch.zeros(1, 0).long())
    metric.update(torch.tensor([13]), nothing)
    found = metric.compute()

    assert found.images == 3
    assert found.numbers["AR100"] == pytest.approx(2 / 3)


def test_evaluator__a_duplicate_counts_once() -> None:
    metric = evaluator()
    metric.update(torch.tensor([11, 12, 13]), detections([11, 12, 13]))
    metric.update(torch.tensor([11]), detections([11]))

    assert len(metric.results()) == 3
    assert metric.compute().numbers["AP"] == pytest.approx(1.0)


def test_evaluator__without_images() -> None:
    metric = evaluator()

    assert metric.results() == []
    assert metric.compute().images == 0


def test_evaluate_boxes__without_categories() -> None:
    empty = {**truth(), "annotations": [], "categories": []}
    found = evaluate_boxes(empty, [], "no classes")

    assert (found.images, found.per_class, found.numbers["AP"]) == (3, {}, -1)


def test_distinct_names__none_hides_another() -> None:
    names = {1: "cat", 2: "cat", 3: "cat (1)", 4: "dog"}

    assert distinct_names(names) == {1: "cat (1) (1)", 2: "cat (2)", 3: "cat (1) (3)", 4: "dog"}


def test_results__are_coco_rows_with_category_ids_and_sizes() -> None:
    metric = evaluator()
    metric.update(torch.tensor([13, 11]), detections([13, 11], score=0.25))

    assert metric.results() == [
        {"image_id": image_id, "category_id": 90, "bbox": BOXES[image_id], "score": 0.25}
        for image_id in (11, 13)
    ]


def test_results__read_back_from_json_give_the_same_numbers() -> None:
    metric = evaluator()
    jitter = torch.rand(3, 40, 4, generator=torch.Generator().manual_seed(3)) * 9
    found = Detections(
        detections([11, 12, 13]).boxes[:, :1] + jitter,
        torch.linspace(1, 0.1, 40).expand(3, 40),
        torch.ones(3, 40).long(),
    )
    metric.update(torch.tensor([11, 12, 13]), found)
    rows = json.loads(json.dumps(metric.results()))

    assert evaluate_boxes(truth(), rows, "three images") == metric.compute()
    assert 0 < metric.compute().numbers["AP"] < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_evaluator__half_precision_detections(dtype: torch.dtype) -> None:
    metric = evaluator()
    found = detections([11])
    metric.update(torch.tensor([11]), found._replace(boxes=found.boxes.to(dtype)))

    assert metric.results()[0]["bbox"] == BOXES[11]


def test_evaluator__unknown_image_is_named() -> None:
    with pytest.raises(DataError, match=r"three images: .* no image with id 77"):
        evaluator().update(torch.tensor([77]), detections([11]))


def test_evaluator__class_beyond_the_categories_is_named() -> None:
    found = detections([11])

    with pytest.raises(DataError, match="the model finds class 2, the data has 2 classes"):
        evaluator().update(torch.tensor([11]), found._replace(labels=found.labels * 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -5.0])
def test_evaluator__box_that_is_none_names_the_image(value: float) -> None:
    found = detections([11, 12])
    found.boxes[1, 0, 2] = value

    with pytest.raises(ValueError, match=r"image 12: detection 0 .* training diverged"):
        evaluator().update(torch.tensor([11, 12]), found)


def test_evaluator__nan_score_names_the_image() -> None:
    with pytest.raises(ValueError, match=r"image 11: detection 0 .* score nan"):
        evaluator().update(torch.tensor([11]), detections([11], score=math.nan))


TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler
from mobilevision.datasets.types import Detections
from mobilevision.heads.detection.coco_metrics import CocoEvaluator

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
case = json.loads((folder / "case.json").read_text())
ids = [image["id"] for image in case["truth"]["images"]]
metric = CocoEvaluator(case["truth"], {3: "raccoon", 90: "unicorn"}, "shared out")
mine = list(DistributedSampler(ids, num_replicas=2, rank=rank, shuffle=False))
for index in mine:
    boxes = torch.tensor([case["boxes"][index]])
    scores = torch.tensor([case["scores"][index]]) / (1 + rank * (index == 0))
    metric.update(torch.tensor([ids[index]]), Detections(boxes, scores, torch.ones(1, 2).long()))
result = metric.compute()
report = {"seen": mine, "result": result.as_dict(), "rows": metric.results()}
(folder / f"report{rank}.json").write_text(json.dumps(report))
dist.destroy_process_group()
"""


def test_evaluator__two_processes_agree_with_one(tmp_path: Path) -> None:
    """Three images on two processes: the sampler gives the first to both, which score it apart.

    The process of lower rank counts.
    """
    random = torch.Generator().manual_seed(0)
    corners = torch.tensor(list(BOXES.values()))
    xyxy = torch.cat((corners[:, :2], corners[:, :2] + corners[:, 2:]), dim=1)
    boxes = xyxy[:, None] + torch.rand(3, 2, 4, generator=random) * 4
    scores = torch.rand(3, 2, generator=random)
    case = {"truth": truth(), "boxes": boxes.tolist(), "scores": scores.tolist()}
    (tmp_path / "case.json").write_text(json.dumps(case))
    processes = [
        subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    codes = [process.wait(timeout=120) for process in processes]
    alone = evaluator()
    alone.dataset = "shared out"
    alone.update(torch.tensor(list(BOXES)), Detections(boxes, scores, torch.ones(3, 2).long()))
    first, second = (json.loads((tmp_path / f"report{rank}.json").read_text()) for rank in range(2))

    assert codes == [0, 0]
    assert sorted(first["seen"] + second["seen"]) == [0, 0, 1, 2]
    assert first["result"] == second["result"] == alone.compute().as_dict()
    assert first["rows"] == second["rows"] == alone.results()
    assert 0 < first["result"]["AP"] < 1


def test_write_metrics__writes_the_keys_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "coco_metrics.json"
    write_metrics(path, result({"raccoon": 0.25, "naïve": None}))

    written = json.loads(path.read_text())
    assert list(written) == [*NUMBER_KEYS, "per_class", "images", "dataset"]
    assert written["per_class"] == {"raccoon": 0.25, "naïve": None}
    assert [file.name for file in path.parent.iterdir()] == ["coco_metrics.json"]


def test_write_metrics__nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "coco_metrics.json"
    write_metrics(path, result({"raccoon": 0.25}))
    before = path.read_bytes()

    with pytest.raises(ValueError, match="Out of range float values"):
        write_metrics(path, result({"raccoon": math.nan}))
    assert path.read_bytes() == before


def test_format_table__prints_the_lines_of_pycocotools() -> None:
    lines = format_table(result({"raccoon": 0.25}, images=5000)).splitlines()

    assert lines[0] == "COCO boxes on val: 5,000 images"
    assert lines[1] == (
        " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.500"
    )
    assert lines[7] == (
        " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.500"
    )
    assert lines[13:] == ["AP of each class (1 of 1 have ground truth)", " raccoon 0.250"]


def test_format_table__says_when_only_a_part_was_seen() -> None:
    assert "4 of 5,000 images" in format_table(result({"raccoon": 0.25}))


def test_format_table__explains_minus_one() -> None:
    assert "-1.000: the ground truth has no such" in format_table(result({"a": None}, value=-1.0))
    assert "no such" not in format_table(result({"a": 0.5}))


@pytest.mark.parametrize("classes", [0, 1, 2, 80, 365])
def test_format_table__fits_eighty_columns_and_shows_every_class(classes: int) -> None:
    per_class: dict[str, float | None] = {
        f"class number {index}": index / classes for index in range(classes)
    }
    lines = format_table(result(per_class)).splitlines()

    assert max(map(len, lines)) <= 80
    assert all(any(f" {name} " in line for line in lines) for name in per_class)


def test_format_table__sorts_by_falling_ap_down_the_columns() -> None:
    per_class = {f"{'long name'} {index}": index / 100 for index in range(12)}
    per_class_with_none: dict[str, float | None] = {**per_class, "x" * 60: None}
    rows = format_table(result(per_class_with_none)).splitlines()[14:]
    cells = [row[start : start + 31].split() for start in (0, 33) for row in rows]
    values = [cell[-1] for cell in cells if cell]

    assert values[:-1] == [f"{index / 100:.3f}" for index in range(11, -1, -1)]
    assert values[-1] == "-"
    assert "x" * 23 + "…" in rows[5]
