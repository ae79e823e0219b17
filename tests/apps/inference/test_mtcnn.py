"""Faces in images: parity with facenet-pytorch's MTCNN, and everything that it cannot take."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import DetectionResult, FaceDetector
from mobilevision.apps.inference.mtcnn import FaceCascade, MTCNNRuntime, _in_chunks, _nms_of_smaller
from mobilevision.datasets.errors import DataError

facenet_pytorch = pytest.importorskip("facenet_pytorch")


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector.load("mtcnn", device="cpu")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def people(real_data: Path) -> list[np.ndarray]:
    """Four images with a face: 218x178 and 112x112."""
    celeba = sorted((real_data / "celeba" / "img_align_celeba").glob("*.jpg"))[:2]
    lfw = sorted((real_data / "lfw").glob("*/*.jpg"))[:2]
    return [read(path) for path in celeba + lfw]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_same(a: DetectionResult, b: DetectionResult) -> None:
    assert len(a.scores) == len(b.scores)
    for name in ("boxes", "landmarks", "scores"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-2)


@pytest.mark.real_data
def test_cascade__finds_what_facenet_pytorch_finds(real_data: Path) -> None:
    names = ["000000005001.jpg", "000000018575.jpg", "000000020992.jpg", "000000000139.jpg"]
    images = [read(real_data / "coco" / "val2017" / name) for name in names]
    theirs = facenet_pytorch.MTCNN(keep_all=True, select_largest=False)
    counts = []
    tensors = [torch.tensor(image).permute(2, 0, 1) for image in images]
    for image, faces in zip(images, FaceCascade()(tensors), strict=True):
        boxes, scores, points = theirs.detect(image, landmarks=True)
        counts.append(len(faces.scores))
        if boxes is None:
            assert not len(faces.scores)
            continue
        order = np.argsort(-scores.astype(np.float64))
        np.testing.assert_allclose(faces.boxes, boxes[order].astype(np.float64), atol=1e-2)
        np.testing.assert_allclose(faces.landmarks, points[order].astype(np.float64), atol=1e-2)
        np.testing.assert_allclose(faces.scores, scores[order].astype(np.float64), atol=1e-5)
    assert counts == [18, 1, 1, 0]


@pytest.mark.real_data
def test_mtcnn__batches_of_mixed_sizes_with_and_without_faces(
    detector: FaceDetector, people: list[np.ndarray]
) -> None:
    mixed = [noise(90, 120), people[0], noise(218, 178), people[2], people[1], noise(8, 8)]
    together = detector(mixed)
    assert [len(faces.scores) for faces in together] == [0, 1, 0, 1, 1, 0]
    for image, faces in zip(mixed, together, strict=True):
        assert_same(faces, detector([image])[0])


@pytest.mark.real_data
def test_mtcnn__landmarks_are_those_of_celeba(detector: FaceDetector, real_data: Path) -> None:
    root = real_data / "celeba"
    lines = (root / "list_landmarks_align_celeba.txt").read_text().splitlines()[2:]
    rows = [line.split() for line in lines[::500]]
    found = detector([read(root / "img_align_celeba" / row[0]) for row in rows])
    declared = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 5, 2)
    assert all(len(faces.scores) for faces in found)
    off = np.array([faces.landmarks[0] for faces in found]) - declared
    # The eyes are 38 px apart; the order of the points is the same, and so is their origin.
    assert np.abs(off).mean() < 1.5
    assert np.abs(np.median(off, axis=(0, 1))).max() < 0.5


@pytest.mark.real_data
def test_mtcnn__large_image_is_reduced_and_landmarks_are_of_the_whole(
    detector: FaceDetector, people: list[np.ndarray]
) -> None:
    image = people[0]
    enlarged = np.asarray(
        Image.fromarray(image).resize((178 * 8, 218 * 8), Image.Resampling.BICUBIC)
    )
    reducing = FaceDetector(detector.runtime, max_side=218, letterboxed=False)
    (own,), (small,) = reducing([enlarged]), detector([image])
    np.testing.assert_allclose(own.landmarks / 8, small.landmarks, atol=1.0)
    np.testing.assert_allclose(own.boxes / 8, small.boxes, atol=3.0)


@pytest.mark.real_data
def test_mtcnn__two_faces_within_the_image(
    detector: FaceDetector, people: list[np.ndarray]
) -> None:
    canvas = np.zeros((260, 420, 3), np.uint8)
    canvas[:112, :112] = people[2]
    canvas[20:238, 200:378] = people[0]
    (faces,) = detector([canvas])
    assert len(faces.scores) == 2
    assert (faces.boxes >= 0).all()
    assert (faces.boxes <= (420, 260, 420, 260)).all()
    for box, landmarks in zip(faces.boxes, faces.landmarks, strict=True):
        assert ((landmarks > box[:2]) & (landmarks < box[2:])).all()


def test_mtcnn__no_images(detector: FaceDetector) -> None:
    assert detector([]) == []


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 400), (400, 5), (12, 12), (19, 300), (20, 20)])
def test_mtcnn__images_too_small_for_a_face(
    detector: FaceDetector, size_hw: tuple[int, int]
) -> None:
    (faces,) = detector([noise(*size_hw)])
    assert faces.boxes.shape == (0, 4)
    assert faces.landmarks.shape == (0, 5, 2)
    assert faces.scores.shape == (0,)


def test_facenet_pytorch__raises_where_we_do_not(detector: FaceDetector) -> None:
    """The reasons for a cascade of our own; where one is gone, look whether it is still needed."""
    theirs = facenet_pytorch.MTCNN(keep_all=True)
    with pytest.raises((RuntimeError, ValueError), match="non-empty list"):  # by torch's version
        theirs.detect(noise(8, 8))
    with pytest.raises(Exception, match="equal-dimension"):
        theirs.detect([Image.fromarray(noise(90, 120)), Image.fromarray(noise(120, 90))])
    with pytest.raises((IndexError, ValueError)):
        theirs.detect([])
    found = detector([noise(8, 8), noise(90, 120), noise(120, 90)])
    assert [len(faces.scores) for faces in found] == [0, 0, 0]


def test_cascade__no_threshold_on_noise_survives_empty_proposals() -> None:
    """With everything let through, boxes leave the image and shrink to nothing."""
    cascade = FaceCascade(thresholds=(0.0, 0.0, 0.0))
    images = [torch.from_numpy(noise(40, 60, seed)).permute(2, 0, 1) for seed in range(2)]
    for faces in cascade(images):
        assert len(faces.boxes) == len(faces.landmarks) == len(faces.scores) > 0
        assert (faces.scores.diff() <= 0).all()


def test_nms_of_smaller__a_box_within_a_box_goes() -> None:
    boxes = torch.tensor([[0.0, 0, 99, 99], [10, 10, 29, 29], [200, 0, 299, 99], [90, 0, 189, 99]])
    scores = torch.tensor([0.8, 0.9, 0.7, 0.6])
    # The small box has the best score and lies in the first; 10 of 100 columns are shared else.
    assert _nms_of_smaller(boxes, scores, 0.7).tolist() == [1, 2, 3]
    assert _nms_of_smaller(boxes[:0], scores[:0], 0.7).tolist() == []


def test_mtcnn__no_such_size_or_device(detector: FaceDetector) -> None:
    with pytest.raises(DataError, match="min_face_px=0"):
        MTCNNRuntime(detector.runtime.metadata, "cpu", min_face_px=0)
    with pytest.raises(DataError, match="nowhere"):
        FaceDetector.load("mtcnn", "nowhere")


def test_mtcnn__score_threshold(detector: FaceDetector) -> None:
    assert detector.score_threshold == 0.9
    runtime = MTCNNRuntime(detector.runtime.metadata, "cpu")
    runtime.cascade.thresholds = (0.3, 0.0, 0.0)
    generous, images = FaceDetector(runtime, letterboxed=False), [noise(60, 80), noise(60, 80, 1)]
    some = generous(images, score_threshold=0)
    threshold = float(np.median(some[0].scores))
    fewer = generous(images, score_threshold=threshold)
    assert 0 < len(fewer[0]) < len(some[0])
    assert len(some[0]) != len(some[1]), "one is filled up"
    for result in fewer:
        assert (result.scores >= np.float32(threshold)).all()


def test_in_chunks__any_number_of_crops__few_batch_sizes_and_the_same_answers() -> None:
    """For each batch size that it meets torch keeps memory: so it does not grow with the photos."""
    cascade, sizes = FaceCascade(), set()

    def refine(crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes.add(len(crops))
        return cascade.refine(crops)

    crops = torch.rand(150, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = cascade.refine(crops)
        for count in (0, 1, 3, 40, 64, 65, 150):
            for ours, theirs in zip(
                _in_chunks(refine, crops[:count], (4, 2)), expected, strict=True
            ):
                torch.testing.assert_close(ours, theirs[:count], atol=1e-5, rtol=0)
    assert sizes == {1, 4, 32, 64}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_in_chunks__ever_other_numbers_of_crops__memory_is_flat() -> None:
    """Without the chunks the last two thirds of the numbers take about 100 MB."""

    def memory_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    cascade, crops = FaceCascade(), torch.rand(48, 3, 48, 48)
    memory = []
    with torch.inference_mode():
        for count in np.random.default_rng(0).permutation(48) + 1:
            _in_chunks(cascade.place, crops[:count], (4, 10, 2))
            memory.append(memory_mb())
    assert memory[-1] - memory[16] < 40
