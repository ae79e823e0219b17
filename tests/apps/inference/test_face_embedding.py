"""Embeddings from Python: whatever people have goes in, and every face comes out as it should."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import Face, FaceEmbedder, similarity
from mobilevision.apps.inference.face_pipeline import Threshold
from mobilevision.apps.inference.predictor import MemoryImage
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.alignment import align_face, crop_box, scaled_template
from mobilevision.heads.face_embedding import FaceNetwork
from mobilevision.heads.face_embedding.cards import card_path
from mobilevision.heads.face_embedding.external_networks import NETWORKS, ExternalNetwork

SIZE = 32


class Corners:
    """Finds a "face" in each quadrant that is not black; knows no torch, needs no weights."""

    def __call__(self, images: list[np.ndarray]) -> list[Any]:
        return [self.find(image) for image in images]

    def find(self, image: np.ndarray) -> Any:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        height, width = image.shape[0] // 2, image.shape[1] // 2
        boxes = [
            (x, y, x + width, y + height)
            for y in (0, height)
            for x in (0, width)
            if height and width and image[y : y + height, x : x + width].max() > 8
        ]
        rows = np.array(boxes, np.float32).reshape(-1, 4)
        unit = scaled_template(SIZE) / SIZE
        points = rows[:, None, :2] + unit * (rows[:, None, 2:] - rows[:, None, :2])
        scores = np.full(len(rows), 0.97, np.float32)
        return SimpleNamespace(boxes=rows, landmarks=points.astype(np.float32), scores=scores)


@pytest.fixture(scope="module")
def embedder(face_network: FaceNetwork) -> FaceEmbedder:
    return FaceEmbedder.from_network(
        face_network, SIZE, Threshold(0.4, 0.002), device="cpu", detector=Corners()
    )


def image(height: int, width: int, quadrants: str = "1111", seed: int = 0) -> np.ndarray:
    """Noise in those quadrants that have a 1, black in the others."""
    pixels = np.random.default_rng(seed).integers(64, 256, (height, width, 3), np.uint8)
    for number, wanted in enumerate(quadrants):
        if wanted == "0":
            y, x = number // 2 * (height // 2), number % 2 * (width // 2)
            bottom = height if number // 2 else height // 2
            right = width if number % 2 else width // 2
            pixels[y:bottom, x:right] = 0
    return pixels


def assert_faces(own: list[Face], other: list[Face]) -> None:
    assert len(own) == len(other)
    for a, b in zip(own, other, strict=True):
        np.testing.assert_array_equal(a.box, b.box)
        np.testing.assert_array_equal(a.landmarks, b.landmarks)
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)


def test_call__faces_are_aligned_and_embedded_by_the_network(
    embedder: FaceEmbedder, face_network: FaceNetwork
) -> None:
    pixels = image(80, 96, "0110")
    faces = embedder(pixels)
    assert [face.box.tolist() for face in faces] == [[48, 0, 96, 40], [0, 40, 48, 80]]
    crops = np.stack([align_face(pixels, face.landmarks, SIZE) for face in faces])
    with torch.inference_mode():
        expected = face_network(torch.from_numpy(crops).permute(0, 3, 1, 2))
    own = np.stack([face.embedding for face in faces])
    np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)
    assert own.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-6)
    assert faces[0].score == pytest.approx(0.97)
    assert faces[0].landmarks.shape == (5, 2)


def test_call__batches_of_mixed_sizes_with_and_without_faces(embedder: FaceEmbedder) -> None:
    images = [
        image(80, 96, "1000"),
        image(40, 40, "0000"),
        image(64, 200, "1111", seed=1),
        image(1, 1),
        image(80, 96, "0001", seed=2),
    ]
    alone = [embedder(pixels) for pixels in images]
    assert [len(faces) for faces in alone] == [1, 0, 4, 0, 1]
    for batch_size in (1, 2, 3, 8):
        together = embedder(images, batch_size=batch_size)
        for own, other in zip(together, alone, strict=True):
            assert_faces(own, other)


def test_call__no_face_is_an_empty_list(embedder: FaceEmbedder) -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    assert embedder(black) == []
    assert embedder([black]) == [[]]
    assert embedder([black, black], batch_size=1) == [[], []]


def test_call__no_images(embedder: FaceEmbedder) -> None:
    assert embedder([]) == []
    assert embedder(iter(())) == []


def test_call__whatever_people_have(embedder: FaceEmbedder, tmp_path: Path) -> None:
    pixels = image(80, 96, "1001")
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    rgba = Image.fromarray(pixels)
    rgba.putalpha(100)
    kinds = [
        str(path),
        path,
        Image.fromarray(pixels),
        rgba,
        np.dstack([pixels, np.full((80, 96), 7, np.uint8)]),
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    ]
    expected = embedder(pixels)
    assert len(expected) == 2
    for faces in embedder(kinds):
        assert_faces(faces, expected)


def test_call__gray_is_three_equal_channels(embedder: FaceEmbedder) -> None:
    grey = image(80, 96)[..., 0]
    expected = embedder(np.repeat(grey[..., None], 3, axis=2))
    assert len(expected) == 4
    for kind in (grey, grey[..., None], Image.fromarray(grey), torch.from_numpy(grey)):
        assert_faces(embedder(kind), expected)


def test_call__exif_rotation(embedder: FaceEmbedder, tmp_path: Path) -> None:
    upright = image(80, 96, "1000")
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    stored.save(tmp_path / "turned.png", exif=exif)
    expected = embedder(upright)
    assert expected[0].box.tolist() == [0, 0, 48, 40]
    assert_faces(embedder(tmp_path / "turned.png"), expected)
    assert_faces(embedder(Image.open(tmp_path / "turned.png")), expected)


def test_call__unreadable_image_is_an_error(embedder: FaceEmbedder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg"):
        embedder([image(8, 8), tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match="batch_size=0"):
        embedder(image(8, 8), batch_size=0)


def test_stream__goes_on_after_an_unreadable_image(embedder: FaceEmbedder) -> None:
    images = [
        MemoryImage(image(80, 96)),
        MemoryImage(np.zeros((4, 4), np.float64), "wrong"),
        MemoryImage(image(80, 96, "0001")),
    ]
    first, wrong, last = embedder.stream(images, batch_size=2)
    assert isinstance(first, list)
    assert isinstance(last, list)
    assert (len(first), len(last)) == (4, 1)
    assert isinstance(wrong, DataError)


def test_embed_aligned__same_as_the_faces_found(embedder: FaceEmbedder) -> None:
    pixels = image(80, 96)
    faces = embedder(pixels)
    crops = [align_face(pixels, face.landmarks, SIZE) for face in faces]
    expected = np.stack([face.embedding for face in faces])
    np.testing.assert_allclose(embedder.embed_aligned(crops), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_aligned(crops, batch_size=3), expected, atol=1e-5)
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(embedder.embed_aligned(batch), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_aligned(crops[1]), expected[1:2], atol=1e-5)


def test_embed_aligned__other_sizes_are_stretched_and_none_is_empty(embedder: FaceEmbedder) -> None:
    assert embedder.embed_aligned(image(64, 64)).shape == (1, 24)
    empty = embedder.embed_aligned([])
    assert empty.shape == (0, 24)
    assert empty.dtype == np.float32
    assert embedder.dimension == 24


def test_embed_aligned__needs_no_detector(face_network: FaceNetwork) -> None:
    own = FaceEmbedder.from_network(face_network, SIZE, device="cpu")
    assert own.embed_aligned([image(SIZE, SIZE)]).shape == (1, 24)
    assert own._detector is None


# --- similarity and verification


def test_similarity__by_hand() -> None:
    a = np.array([3.0, 4.0])
    b = np.array([[4.0, 3.0], [-3.0, -4.0], [8.0, -6.0]])
    np.testing.assert_allclose(similarity(a, b), [0.96, -1.0, 0.0], atol=1e-7)
    assert similarity(b[:, None], b).shape == (3, 3)
    assert similarity(a, a).dtype == np.float32


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones(3), np.ones(4), "different models"),
        (np.float32(1), np.ones(4), "must be equal"),
        (np.zeros(3), np.ones(3), "length zero"),
        (np.array([np.nan, 1]), np.ones(2), "not finite"),
    ],
)
def test_similarity__what_cannot_be_compared(a: Any, b: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        similarity(a, b)


def test_verify__threshold_belongs_to_same(embedder: FaceEmbedder) -> None:
    angle = math.acos(0.4)
    a = np.array([1.0, 0.0], np.float32)
    b = np.array([0.4 + 1e-6, math.sin(angle)], np.float32)
    answer = embedder.verify(a, b)
    assert answer.same
    assert answer.similarity == pytest.approx(0.4, abs=1e-5)
    assert (answer.threshold, answer.far, answer.measured) == (0.4, 0.002, embedder.threshold)
    assert not embedder.verify(a, -b).same
    strict = embedder.verify(a, b, threshold=0.5)
    assert (strict.same, strict.threshold, strict[3:]) == (False, 0.5, (None, None))


def test_verify__images_faces_and_embeddings(embedder: FaceEmbedder) -> None:
    pixels = image(80, 96, "1000")
    (face,) = embedder(pixels)
    for other in (pixels, face, face.embedding, Image.fromarray(pixels)):
        assert embedder.verify(pixels, other).similarity == pytest.approx(1, abs=1e-5)


def test_call_and_verify__one_face_of_several(face_network: FaceNetwork) -> None:
    class BesideTheCenter(Corners):
        """The first quadrant's face is made smaller, so that it is nearer to the center."""

        def find(self, image: np.ndarray) -> Any:
            found = super().find(image)
            found.boxes[0, :2] = found.boxes[0, 2:] / 2
            return found

    model = FaceEmbedder.from_network(face_network, SIZE, device="cpu", detector=BesideTheCenter())
    pixels = image(80, 96)
    everybody = model(pixels)
    (largest,), (center,) = (model(pixels, faces=which) for which in ("largest", "center"))
    assert len(everybody) == 4
    np.testing.assert_array_equal(largest.box, everybody[0].box)
    np.testing.assert_array_equal(center.box, everybody[-1].box)
    np.testing.assert_array_equal(center.box, [24, 20, 48, 40])
    for which, face in (("largest", largest), ("center", center)):
        answer = model.verify(pixels, face, threshold=0.5, faces=which)
        assert answer.similarity == pytest.approx(1, abs=1e-5)


def test_verify__without_face_or_threshold(
    embedder: FaceEmbedder, face_network: FaceNetwork, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    with pytest.raises(DataError, match=r"black\.png: no face found"):
        embedder.verify(image(80, 96), tmp_path / "black.png")
    with pytest.raises(DataError, match="first image: no face"):
        embedder.verify(np.zeros((40, 40, 3), np.uint8), image(80, 96))
    unmeasured = FaceEmbedder.from_network(face_network, SIZE, device="cpu", detector=Corners())
    with pytest.raises(DataError, match="no measured threshold"):
        unmeasured.verify(np.ones(2), np.ones(2))
    assert unmeasured.verify(np.ones(2), np.ones(2), threshold=0.9).same


# --- loading


def test_load__checkpoint_with_its_threshold(
    embedder: FaceEmbedder, write_face_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_face_checkpoint(
        tmp_path / "face.ckpt", verification={"threshold": 0.31, "far": 0.001, "pairs": 6000}
    )
    loaded = FaceEmbedder.load(path, device="cpu", detector=Corners())
    assert loaded.threshold == Threshold(0.31, 0.001)
    assert loaded.size == SIZE
    crops = [image(SIZE, SIZE, seed=seed) for seed in range(3)]
    np.testing.assert_allclose(
        loaded.embed_aligned(crops), embedder.embed_aligned(crops), atol=1e-5
    )


def test_load__checkpoint_whose_threshold_is_none(
    write_face_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_face_checkpoint(
        tmp_path / "face.ckpt", verification={"threshold": "0.3", "far": 0.001}
    )
    loaded = FaceEmbedder.load(path, device="cpu")
    assert loaded.embed_aligned(image(SIZE, SIZE)).shape == (1, loaded.dimension)
    with pytest.raises(DataError, match=r"threshold .* is '0\.3', not a number from -1 to 1, in"):
        _ = loaded.threshold


def test_load__checkpoint_without_threshold_or_size(
    write_face_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_face_checkpoint(tmp_path / "face.ckpt", size_hw=None)
    with pytest.raises(DataError, match="does not state the size"):
        FaceEmbedder.load(path)
    loaded = FaceEmbedder.load(path, size=48, device="cpu")
    assert loaded.threshold is None
    assert loaded.size == 48


def test_load__what_is_no_face_network(
    write_face_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no such model"):
        FaceEmbedder.load(tmp_path / "absent.ckpt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.ckpt")
    with pytest.raises(DataError, match="holds weights alone"):
        FaceEmbedder.load(tmp_path / "weights.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "python.ckpt")
    with pytest.raises(DataError, match="from_network"):
        FaceEmbedder.load(tmp_path / "python.ckpt")
    path = write_face_checkpoint(tmp_path / "face.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, path)
    with pytest.raises(DataError, match="can be rebuilt"):
        FaceEmbedder.load(path)


def test_load__network_of_another_project__is_cropped_as_its_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Kept(ExternalNetwork):
        def _open(self) -> None:
            pass

        def infer(self, pixels: np.ndarray) -> np.ndarray:
            seen.append(pixels)
            return pixels.reshape(len(pixels), -1)[:, :7]

    monkeypatch.setitem(NETWORKS, "onnx", lambda file: Kept((file,)))
    path = tmp_path / "net.onnx"
    path.touch()
    card = {"size": 24, "pixel_mean": 0, "pixel_std": 1, "license": "MIT"}
    pixels = image(80, 96, "0100")
    for crop in ({"crop": "arcface"}, {"crop": "box", "margin_px": 4}):
        card_path(path).write_text(json.dumps(card | crop))
        embedder = FaceEmbedder.load(f"onnx:{path}", detector=Corners())
        (face,) = embedder(pixels)
        if crop["crop"] == "box":
            expected = crop_box(pixels, face.box, 24, 4)
        else:
            expected = align_face(pixels, face.landmarks, 24)
        np.testing.assert_array_equal(seen[-1][0], expected)
        assert (embedder.size, embedder.runtime.metadata.license) == (24, "MIT")
        aligned = embedder.embed_aligned(image(24, 24))
        assert aligned.shape == (1, 7)
        np.testing.assert_array_equal(seen[-1][0], image(24, 24))
    with pytest.raises(DataError, match=r"takes faces of 24 px; say another size in its card"):
        FaceEmbedder.load(f"onnx:{path}", size=112)
    assert FaceEmbedder.load(f"onnx:{path}", size=24).size == 24


@pytest.mark.real_data
def test_load__teacher_gives_its_published_embeddings(real_data: Path) -> None:
    pytest.importorskip("ncnn")
    parquet = pytest.importorskip("pyarrow.parquet")
    teacher = FaceEmbedder.load(f"ncnn:{real_data / 'teacher' / 'mobilenet_ncnn.param'}")
    table = parquet.read_table(real_data / "teacher" / "lfw.parquet").slice(0, 5)
    files = [real_data / "lfw" / name for name in table["file"].to_pylist()]
    expected = np.stack(table["embedding"].to_numpy())
    np.testing.assert_allclose(teacher.embed_aligned(files), expected, atol=2e-3)
    assert teacher.threshold is not None
    assert teacher.threshold[:2] == (0.315, 0.000974)
    assert teacher.runtime.metadata.license == "unstated"


@pytest.mark.real_data
@pytest.mark.parametrize("detector", [None, "mtcnn"])
@pytest.mark.usefixtures("public_retinaface")
def test_teacher__found_and_aligned_faces_are_recognized(
    real_data: Path, detector: str | None
) -> None:
    """From a whole image to the cached embedding of the face that CelebA's landmarks cut out."""
    pytest.importorskip("ncnn")
    pytest.importorskip("facenet_pytorch")
    parquet = pytest.importorskip("pyarrow.parquet")
    network = real_data / "teacher" / "mobilenet_ncnn.param"
    teacher = FaceEmbedder.load(f"ncnn:{network}", detector=detector)
    table = parquet.read_table(real_data / "teacher" / "celeba.parquet").slice(0, 12)
    folder = real_data / "celeba" / "img_align_celeba"
    paths = [folder / name for name in table["file"].to_pylist()]
    found = teacher(paths, faces="largest")  # there are people in the background
    assert all(len(faces) == 1 for faces in found)
    own = np.stack([faces[0].embedding for faces in found])
    alike = similarity(own[:, None], np.stack(table["embedding"].to_numpy()))
    assert (alike.argmax(axis=1) == np.arange(12)).all()
    assert np.median(np.diag(alike)) > 0.9
