"""The post-processing benchmark runs, and tells when the two sides disagree."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mobilevision.heads.detection.boxes import PostProcess


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "postprocess.py"
    spec = importlib.util.spec_from_file_location("benchmark_postprocess", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__prints_a_row_for_each_case_with_the_same_boxes(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    benchmark.compare(data=tmp_path, batches=(2,), rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "trained: generated sparse scores"
    assert [line.split()[:3] for line in lines[4:]] == [
        [name, "2", threshold] for name in ("trained", "dense") for threshold in ("0.01", "0.001")
    ]
    assert all(line.endswith("  yes") for line in lines[4:])


@pytest.mark.real_data
def test_detector_scene__has_the_scores_of_a_trained_detector(
    benchmark: ModuleType, real_data: Path
) -> None:
    scores = benchmark.detector_scene(real_data, 1).scores[..., 1:]
    assert scores.shape == (1, benchmark.ANCHORS, benchmark.CLASSES)
    assert scores.max() > 0.5
    assert scores.median() < 0.01


@pytest.mark.parametrize("field", ["boxes", "scores", "labels"])
def test_agree__notices_one_difference(benchmark: ModuleType, field: str) -> None:
    scene = benchmark.sparse_scores(1)
    process = PostProcess()
    ours = process(scene.boxes, scene.scores[..., 1:], (300, 300)).unbatch()
    theirs = benchmark.Torchvision(process).run(scene)
    assert benchmark.agree(ours, theirs)
    theirs[0][field] = theirs[0][field] + torch.tensor(1).to(theirs[0][field].dtype)
    assert not benchmark.agree(ours, theirs)
