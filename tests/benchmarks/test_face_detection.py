"""The benchmark of face detectors runs, on sides that find the same, and measures what it says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.datasets.images import ImageFile
from mobilevision.heads.face_embedding.teachers import NcnnTeacher

POINTS = np.array([[60.0, 80], [100, 84], [78, 105], [64, 125], [96, 127]])


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "face_detection.py"
    spec = importlib.util.spec_from_file_location("benchmark_face_detection", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faces(benchmark: ModuleType, *points: np.ndarray) -> object:
    boxes = [[*each.min(axis=0), *each.max(axis=0)] for each in points]
    return benchmark.Found(np.array(boxes).reshape(-1, 4), np.array(points).reshape(-1, 5, 2))


@pytest.mark.real_data
def test_compare__every_table(
    benchmark: ModuleType, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("facenet_pytorch")
    for folder in ("retinaface", "coco", "celeba"):
        (tmp_path / folder).symlink_to(real_data / folder)
    result = benchmark.compare(str(tmp_path), threads=1, rounds=1, photos=1, faces=8)
    assert result["time"][benchmark.ORT] == (1, 1, 1)
    assert len(result["time"]) == 5
    assert list(result["celeba"]) == ["MTCNN", "RetinaFace"]
    assert list(result["coco"]) == ["MTCNN", "RetinaFace", benchmark.STRICT]
    assert result["coco"]["RetinaFace"] >= result["coco"][benchmark.STRICT]
    for found, others, mean, median, _ in result["celeba"].values():
        assert found == 1
        assert others <= 2
        assert 0 < median <= mean + 0.02 < 0.15
    assert len(result["repeated"]) == 6
    assert "aligned" not in result
    printed = capsys.readouterr().out
    assert "1 photo(s) of 640x480 px, 1 thread(s)" in printed
    assert "CelebA: 8 faces" in printed
    assert "no alignment is judged" in printed


@pytest.mark.real_data
def test_print_aligned__better_alignment_tells_people_apart(
    benchmark: ModuleType, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ncnn")
    celeba = read_celeba(real_data / "celeba").split("test")
    identities, points = celeba.identities, celeba.landmarks
    assert identities is not None
    assert points is not None
    rows = np.concatenate([np.flatnonzero(identities == x)[:3] for x in np.unique(identities)[:8]])
    images = [ImageFile(celeba.paths[row]).read() for row in rows]
    given = list(points[rows])
    aligned = {"given": [None, *given[1:]], "aside": [each + 40 for each in given]}
    teacher = NcnnTeacher(real_data / "teacher" / "mobilenet_ncnn.param")
    result = benchmark.print_aligned(teacher, images, aligned, identities[rows])
    assert result["given"][0] > result["aside"][0]
    assert result["given"][2] < result["aside"][2]
    assert "23 faces that all found" in capsys.readouterr().out


def test_photos_of__no_data__generated(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (photo,) = benchmark.photos_of(None, 3)
    assert (photo.shape, photo.dtype) == ((480, 640, 3), np.uint8)
    assert "generated" in capsys.readouterr().out


def test_nearest__known_face_and_others_apart(benchmark: ModuleType) -> None:
    known = POINTS + np.array([10, -5])
    points, others = benchmark.nearest(faces(benchmark, POINTS + 300, known), POINTS)
    np.testing.assert_array_equal(points, known)
    assert others == 1
    assert benchmark.nearest(faces(benchmark, POINTS + 300), POINTS) == (None, 1)
    assert benchmark.nearest(faces(benchmark), POINTS) == (None, 0)
    # All five points 3, 4 px aside, and the eyes 40, 4 px from each other.
    moved = benchmark.apart(POINTS + np.array([3, 4]), POINTS)
    assert moved == pytest.approx(5 / np.hypot(40, 4))


def test_found_again__exact_landmarks_of_the_copy__no_distance(benchmark: ModuleType) -> None:
    image = np.zeros((218, 178, 3), np.uint8)
    flipped = (POINTS * [-1, 1] + [177, 0])[[1, 0, 2, 4, 3]]
    half_turn = np.array([[np.cos(np.pi / 18), np.sin(np.pi / 18)],
                          [-np.sin(np.pi / 18), np.cos(np.pi / 18)]])  # fmt: skip
    middle = np.array([88.5, 108.5])
    expected = {
        "turned 10 deg": ((218, 178), (POINTS - middle) @ half_turn.T + middle),
        "reduced to 0.7": ((153, 125), (POINTS + 0.5) * 0.7 - 0.5),
        "mirrored": ((218, 178), flipped),
    }
    assert list(expected) == list(benchmark.CHANGES)
    for name, (size_hw, points) in expected.items():
        seen = []

        def find(copy: np.ndarray, points: np.ndarray = points, seen: list = seen) -> object:
            seen.append(copy.shape[:2])
            return faces(benchmark, points)

        back = benchmark.found_again(find, image, benchmark.CHANGES[name], POINTS)
        assert seen == [size_hw]
        np.testing.assert_allclose(back, POINTS, atol=1e-9)


def test_check_same__other_faces__refused(benchmark: ModuleType) -> None:
    one = faces(benchmark, POINTS)
    benchmark.check_same(one, faces(benchmark, POINTS + 0.05))
    with pytest.raises(ValueError, match="differ by 1"):
        benchmark.check_same(one, faces(benchmark, POINTS + 1))
    with pytest.raises(ValueError, match="1 faces and 0"):
        benchmark.check_same(one, faces(benchmark))
