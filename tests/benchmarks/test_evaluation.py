"""The evaluation benchmark runs, and tells whether the engines agree."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "evaluation.py"
    spec = importlib.util.spec_from_file_location("benchmark_evaluation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__prints_both_engines_and_that_they_agree(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.compare(images=20, detections=10, repeats=1)
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "20 images, 147 boxes, 80 classes, 200 detections"
    assert [line.split()[0] for line in lines[3:5]] == ["pycocotools", "faster-coco-eval"]
    assert lines[-1].startswith("The twelve numbers agree: yes")


def test_compare__one_file_without_the_other_is_refused(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="give both"):
        benchmark.compare(results=Path("results.json"))


def test_generate__is_reproducible_and_has_crowds_and_far_detections(
    benchmark: ModuleType,
) -> None:
    truth, found = benchmark.generate(50, 20)

    assert (truth, found) == benchmark.generate(50, 20)
    assert sum(row["iscrowd"] for row in truth["annotations"]) == 3
    assert len(found) == 1000
    assert {row["image_id"] for row in found} <= {row["id"] for row in truth["images"]}
