"""The benchmark of a face detector by group: counts, intervals and distances by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError

POINTS = np.array([[0, 0], [10, 0], [5, 5], [2, 10], [8, 10]], np.float32)


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "face_groups.py"
    spec = importlib.util.spec_from_file_location("benchmark_face_groups", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nearest__in_distances_of_the_eyes(benchmark: ModuleType) -> None:
    found = np.stack([POINTS + np.array([30, 0]), POINTS + np.array([3, 4])])
    assert benchmark.nearest(found, POINTS) == pytest.approx(0.5)
    assert benchmark.nearest(found[:1], POINTS) == np.inf
    assert benchmark.nearest(np.empty((0, 5, 2)), POINTS) == np.inf


def test_rate__wilson_interval(benchmark: ModuleType) -> None:
    rate = benchmark.rate(np.array([0.1] * 4 + [0.2] * 4 + [np.inf] * 2))
    assert rate[:2] == (10, 8)
    # Wilson 1927 with z = 1.96: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert rate.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert rate.distance == pytest.approx(0.15)
    assert np.isnan(benchmark.rate(np.array([np.inf])).distance)


class Some:
    """Finds every second face, where it is, in images of the side that it expects."""

    def __init__(self, side: int, landmarks: np.ndarray, scale: float) -> None:
        self.side, self.landmarks, self.scale, self.seen = side, landmarks, scale, 0

    def __call__(self, images: list[np.ndarray]) -> list[Any]:
        results = []
        for image in images:
            assert max(image.shape) == self.side
            own = self.landmarks[self.seen] * self.scale
            results.append(own[None] if self.seen % 2 == 0 else np.empty((0, 5, 2)))
            self.seen += 1
        return [type("Result", (), {"landmarks": each}) for each in results]


@pytest.mark.parametrize("side_px", [None, 109])
def test_measure__groups_of_a_drawn_set(
    benchmark: ModuleType,
    drawn_celeba: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    side_px: int | None,
) -> None:
    faces = benchmark.CelebAFaces(drawn_celeba, ("train", "val", "test")).read()
    detector = Some(side_px or 218, faces.landmarks_xy, 0.5 if side_px else 1)
    monkeypatch.setattr(benchmark.FaceDetector, "load", lambda _: detector)
    rates = benchmark.measure(str(drawn_celeba), groups=["Red_Face", "Never"], side_px=side_px)
    assert detector.seen == 24
    # Odd numbers are red, and 000001.jpg is the first: the even positions.
    counts = {name: rate[:2] for name, rate in rates.items()}
    assert counts == {"all": (24, 12), "Red_Face: yes": (12, 12), "Red_Face: no": (12, 0),
                      "Never: no": (24, 12)}  # fmt: skip
    assert rates["all"].distance == pytest.approx(0, abs=0.01)
    assert "Red_Face: no           12      12    0.00%" in capsys.readouterr().out
    monkeypatch.setenv("MOBILEVISION_DATA", str(drawn_celeba.parent / "absent"))
    assert benchmark.measure() == {}
    with pytest.raises(DataError, match="no attribute Bald; there are"):
        benchmark.measure(str(drawn_celeba), groups=["Bald"])
