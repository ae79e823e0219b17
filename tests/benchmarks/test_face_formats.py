"""The benchmark of exported face detectors: matches and differences by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mobilevision.apps import DetectionResult

POINTS = np.array([[12, 14], [18, 14], [15, 16], [13, 18], [17, 18]], np.float32)
KNOWN: dict[str, list[dict[str, Any]]] = {
    "a.jpg": [
        {"box": [10, 10, 20, 20], "landmarks": POINTS.ravel().tolist(), "score": 0.9},
        {"box": [50, 50, 60, 60], "landmarks": (POINTS + 40).ravel().tolist(), "score": 0.9},
    ],
    "b.jpg": [],
}


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "face_formats.py"
    spec = importlib.util.spec_from_file_location("benchmark_face_formats", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(boxes: list[list[float]], points: list[np.ndarray]) -> DetectionResult:
    count = len(boxes)
    return DetectionResult(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(count, 0.8, np.float32),
        np.zeros(count, np.int64),
        {1: "face"},
        (100, 100),
        None,  # type: ignore[arg-type]
        np.array(points, np.float32).reshape(-1, 5, 2),
    )


def test_match__one_found_one_missed_one_more(benchmark: ModuleType) -> None:
    found = [result([[10, 10, 20, 22]], [POINTS + 3]), result([[1, 1, 9, 9]], [POINTS])]
    hits, more, distances = benchmark.match(KNOWN, found)
    assert (hits, more) == (1, 1)
    apart = 3 * 2**0.5
    np.testing.assert_allclose(distances, [(0.5, apart, apart / 6)], rtol=1e-5)
    box_ap, ap50 = benchmark.average_precision(KNOWN, found)
    assert 0 < box_ap < ap50 == pytest.approx(51 / 101)


def test_differences__nearest_face_of_each(benchmark: ModuleType) -> None:
    theirs = [result([[10, 10, 20, 20], [50, 50, 60, 60]], [POINTS, POINTS + 40])]
    ours = [result([[50, 50, 60, 61], [10, 10, 20, 20]], [POINTS + 40, POINTS + 2])]
    assert benchmark.differences(theirs, ours) == pytest.approx((1, 2, 0))
    assert benchmark.differences(theirs, [result([], [])]) == (np.inf, np.inf, np.inf)
