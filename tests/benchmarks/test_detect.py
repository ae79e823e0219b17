"""The detection benchmark runs, and gives every side the same number of candidates."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "detect.py"
    spec = importlib.util.spec_from_file_location("benchmark_detect", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compare__one_stage_detectors__same_candidates_and_boxes(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ("ours: SSD-300", "ssdlite320_mobilenet_v3_large")
    ratios = benchmark.compare(rounds=1, sides=sides)
    rows = capsys.readouterr().out.splitlines()[3:]
    assert [row.split()[-2:] for row in rows] == [["400", "100"]] * 2
    assert ratios["ours: SSD-300"] == 1
    assert ratios.keys() == set(sides)


def test_limit_candidates__scores_by_hand__threshold_between_them(benchmark: ModuleType) -> None:
    scores, limits = np.array([0.9, 0.5, 0.4, 0.1], np.float32), []

    def run() -> np.ndarray:
        return scores[scores > limits[-1][0]]

    side = benchmark.Side(run, lambda *limit: limits.append(limit), 0.6)
    assert benchmark.limit_candidates(side, 2) == 2
    assert limits[-1] == (pytest.approx(0.45), 0.6, 100)
    assert benchmark.limit_candidates(side, 9) == 4
