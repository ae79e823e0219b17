import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import DetectionResult, Detector, FaceDetector
from mobilevision.apps.importing import format_card, import_weights
from mobilevision.apps.inference.face_detection import choose_faces, load_detector
from mobilevision.apps.inference.torch import run_task
from mobilevision.apps.main import main
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.weights import hub
from mobilevision.datasets import download as download_module
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile
from mobilevision.heads.face_detection import FaceDetectionTask, RetinaFace


@pytest.fixture(scope="module")
def untrained() -> FaceDetector:
    """A small network that finds many faces anywhere."""
    torch.manual_seed(0)
    backbone = MobileNetV1(0.25, out_strides=(8, 16, 32))
    network = RetinaFace(backbone, channels=16)
    for predictor in network.predictors:
        torch.nn.init.normal_(predictor.classes.weight, std=2.0)
        torch.nn.init.zeros_(predictor.classes.bias)
        torch.nn.init.normal_(predictor.landmarks.weight, std=1.0)
    task = FaceDetectionTask(network, {1: "face"})
    return FaceDetector(run_task(FaceDetector, task, "cpu", (96, 96)), letterboxed=False)


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = [(64, 96), (50, 41), (64, 96), (1, 3), (120, 64)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def assert_same(a, b) -> None:
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
    np.testing.assert_allclose(a.landmarks, b.landmarks, atol=1e-3)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


def test_batch__of_mixed_sizes__does_not_change_the_faces(untrained) -> None:
    images = pictures()
    together = untrained(images, score_threshold=0.3)
    assert sum(map(len, together)) > 20
    for image, result in zip(images, together, strict=True):
        assert result.size_hw == image.shape[:2]
        assert_same(result, untrained(image, score_threshold=0.3))
        assert (result.boxes >= 0).all()
        assert (result.boxes[:, 2:] <= image.shape[1::-1]).all()


def test_no_face__is_empty(untrained) -> None:
    result = untrained(pictures()[0], score_threshold=1.0)
    assert len(result) == 0
    assert result.landmarks.shape == (0, 5, 2)
    assert untrained([]) == []


def test_max_side__reduces_and_scales_back(untrained) -> None:
    image = np.asarray(Image.fromarray(pictures()[0]).resize((192, 128), Image.Resampling.NEAREST))
    reduced = FaceDetector(untrained.runtime, max_side=96, letterboxed=False)
    small = np.array(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR))
    ours, expected = reduced(image, score_threshold=0.3), untrained(small, score_threshold=0.3)
    assert len(ours) == len(expected) > 0
    np.testing.assert_allclose(ours.boxes, expected.boxes * 2, atol=1e-3)
    np.testing.assert_allclose(ours.landmarks, expected.landmarks * 2, atol=1e-3)


@pytest.mark.parametrize("max_side", [0, -5])
def test_max_side__not_positive(untrained, max_side) -> None:
    with pytest.raises(DataError, match="max_side"):
        FaceDetector(untrained.runtime, max_side)


def test_letterboxed__wide_and_high_images(untrained) -> None:
    boxed = FaceDetector(untrained.runtime, letterboxed=True)
    assert (untrained.input_size, boxed.input_size) == ({"max_side": 1024}, [96, 96])
    for size_hw in ((48, 96), (96, 48), (30, 30)):
        image = np.random.default_rng(2).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        result = boxed(image, score_threshold=0.3)
        assert (result.boxes[:, 2:] <= size_hw[::-1]).all()
    assert len({boxed.prepare(image).pixels.shape for image in map(Memory, pictures())}) == 1


class Memory:
    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self) -> np.ndarray:
        return self.pixels


def test_above__keeps_landmarks_with_their_faces(untrained) -> None:
    result = untrained(pictures()[0], score_threshold=0.3)
    threshold = float(np.median(result.scores))
    kept = result.above(threshold)
    assert 0 < len(kept) < len(result)
    np.testing.assert_array_equal(kept.landmarks, result.landmarks[: len(kept)])


def test_plot__draws_landmarks_of_faces_that_score_enough() -> None:
    points = np.array([[30, 40], [60, 40], [45, 60], [32, 75], [58, 75]], np.float32)
    result = DetectionResult(
        np.array([[20, 20, 70, 90], [120, 20, 170, 90]], np.float32),
        np.array([0.9, 0.4], np.float32),
        np.zeros(2, np.int64),
        {1: "face"},
        (100, 200),
        Memory(np.zeros((100, 200, 3), np.uint8)),
        np.stack([points, points + np.array([100, 0], np.float32)]),
    )
    drawn = np.asarray(result.plot(0.5))
    rows, columns = points[:, 1].astype(int), points[:, 0].astype(int)
    assert (drawn[rows, columns] == 255).all()
    assert (drawn[rows, columns + 100] == 0).all()


@pytest.fixture(scope="module")
def public(real_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("public") / "retinaface.ckpt"
    weights = real_data / "retinaface" / "mobilenet0.25_Final.pth"
    imported = import_weights(str(weights), path)
    assert imported.job == "face_detection"
    assert imported.params == 426_608
    assert imported.categories == {1: "face"}
    named = hub.PUBLIC_WEIGHTS["retinaface_mobilenet_0.25"]
    assert imported.provenance["sha256"] == named.sha256
    assert imported.provenance["license"] == named.license == "MIT"
    assert "(pixel - 123, 117, 104) / 1" in format_card(imported)
    return path


@pytest.mark.real_data
def test_public_weights__one_load_for_all_detectors(public, real_data) -> None:
    golden = json.loads((real_data / "retinaface" / "golden.json").read_text())
    detector = Detector.load(public)
    assert isinstance(detector, FaceDetector)
    assert not detector.letterboxed
    names = list(golden)[::8]
    for name, found in zip(names, detector([real_data / x for x in names], 0.3), strict=True):
        faces = sorted(golden[name], key=lambda face: -face["score"])
        assert len(found) == len(faces)
        points = np.array([face["landmarks"] for face in faces]).reshape(-1, 5, 2)
        np.testing.assert_allclose(found.landmarks, points, atol=0.05)
    boxed = FaceDetector.load(public, size_hw=(640, 640))
    assert boxed.letterboxed
    assert len(boxed(real_data / names[0], 0.9)) >= 1


@pytest.mark.real_data
def test_detect__draws_faces_and_writes_results(public, real_data, tmp_path) -> None:
    golden = json.loads((real_data / "retinaface" / "golden.json").read_text())
    name = next(name for name in golden if name.startswith("celeba") and golden[name])
    out = tmp_path / "found"
    assert main(["detect", str(real_data / name), "--model", str(public), "--out", str(out)]) == 0
    (row, *_) = json.loads((out / "results.json").read_text())
    face = max(golden[name], key=lambda face: face["score"])
    x1, y1, x2, y2 = np.clip(face["box"], 0, [178, 218] * 2)
    assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.1)
    (picture,) = (out / "pictures").iterdir()
    assert ImageFile(picture).size_hw == (218, 178)


def found(*boxes: tuple[float, ...]) -> DetectionResult:
    """Faces of an image 100 px high and 200 px wide; the landmarks of each are its number."""
    count = len(boxes)
    points = np.arange(count, dtype=np.float32)[:, None, None] * np.ones((1, 5, 2), np.float32)
    scores, labels = np.full(count, 0.9, np.float32), np.zeros(count, np.int64)
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    image = Memory(np.zeros((100, 200, 3), np.uint8))
    return DetectionResult(rows, scores, labels, {1: "face"}, (100, 200), image, points)


def numbers(faces: list) -> list[int]:
    return [int(landmarks[0, 0]) for _, landmarks, _ in faces]


# Areas 400, 3,600 and 1,600; the centers (110, 50), (30, 30) and (80, 40) are 10, 72.8 and 22.4 px
# from the image's.
THREE = ((100, 40, 120, 60), (0, 0, 60, 60), (60, 20, 100, 60))


@pytest.mark.parametrize(
    ("faces", "expected"), [("all", [1, 2, 0]), ("largest", [1]), ("center", [0])]
)
def test_choose_faces__by_hand(faces, expected) -> None:
    chosen = choose_faces(found(*THREE), (100, 200), faces)
    assert numbers(chosen) == expected
    box, landmarks, score = chosen[0]
    assert tuple(box) == THREE[expected[0]]
    assert landmarks.shape == (5, 2)
    assert score == pytest.approx(0.9)
    assert choose_faces(found(), (100, 200), faces) == []


def test_choose_faces__center_of_a_high_image__is_another() -> None:
    # From (50, 100) they are 78.1, 72.8 and 67.1 px away.
    assert numbers(choose_faces(found(*THREE), (200, 100), "center")) == [2]


def test_choose_faces__as_near__the_larger_one() -> None:
    both = found((75, 45, 85, 55), (110, 40, 130, 60))
    assert numbers(choose_faces(both, (100, 200), "center")) == [1]


def test_choose_faces__no_area_or_no_place__is_no_face() -> None:
    faces = found((5, 5, 5, 9), (0, 0, 10, 10), (0, 0, 20, 20), (9, 9, 8, 30))
    assert faces.landmarks is not None
    faces.landmarks[2, 4, 0] = np.nan
    assert numbers(choose_faces(faces, (100, 200))) == [1]


def test_choose_faces__what_cannot_be() -> None:
    with pytest.raises(DataError, match="'nearest': must be one of all, largest, center"):
        choose_faces(found(), (100, 200), "nearest")  # type: ignore[arg-type]
    without = replace(found(*THREE), landmarks=None)
    with pytest.raises(DataError, match="no landmarks"):
        choose_faces(without, (100, 200))


@pytest.fixture
def offline(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download_module.time, "sleep", lambda _: None)
    name = "retinaface_mobilenet_0.25"
    weights = hub.PUBLIC_WEIGHTS[name]._replace(url="http://127.0.0.1:9/retinaface.pth")
    monkeypatch.setitem(hub.PUBLIC_WEIGHTS, name, weights)


@pytest.mark.usefixtures("offline")
def test_load_detector__no_connection__says_what_can_be_done() -> None:
    for name in (None, "retinaface_mobilenet_0.25"):
        with pytest.raises(DataError) as caught:
            load_detector(name)
        for words in ("weights download retinaface_mobilenet_0.25", "--detector mtcnn",
                      'detector="mtcnn"'):  # fmt: skip
            assert words in str(caught.value)
    with pytest.raises(DataError, match=r"other: no such model\. .* or mtcnn\.") as caught:
        load_detector("other")
    assert "installed" not in str(caught.value)


def test_load_detector__no_torch__asks_for_an_exported_file(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mobilevision.apps.importing", None)
    with pytest.raises(DataError, match=r"--detector retinaface\.onnx.*mobilevision export --ckpt"):
        load_detector()
    monkeypatch.delitem(sys.modules, "mobilevision.apps.inference.mtcnn", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataError, match="mtcnn needs torch: pip install mobilevision"):
        load_detector("mtcnn")
