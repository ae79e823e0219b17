from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import FaceAttributes, FaceDescription
from mobilevision.apps.drawing import draw_attributes
from mobilevision.apps.inference.face_detection import FacesFound, FindFaces
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.attributes import CelebAModule
from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.heads.face_attributes import AttributeNetwork

THRESHOLDS = {"Red_Face": 0.3, "Wearing_Hat": 0.5, "Never": 0.9}


@pytest.fixture(scope="module")
def network() -> AttributeNetwork:
    torch.manual_seed(0)
    return AttributeNetwork(MobileNetV1(0.25, out_strides=(32,)), 3, landmarks=True).eval()


@pytest.fixture
def describe(
    network: AttributeNetwork, drawn_celeba: Path, listed_faces: Callable[..., FindFaces]
) -> FaceAttributes:
    return FaceAttributes.from_network(
        network, THRESHOLDS, (40, 32), "cpu", listed_faces(drawn_celeba)
    )


def first_image(root: Path) -> Path:
    return root / "img_align_celeba" / "000013.jpg"


def test_call__same_crops_and_probabilities_as_evaluation(
    describe: FaceAttributes, network: AttributeNetwork, drawn_celeba: Path
) -> None:
    data = CelebAModule(drawn_celeba, size_hw=(40, 32), batch_size=6, num_workers=0)
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        expected = network(batch.images).logits.sigmoid().numpy()
    described = describe(batch.paths, batch_size=4)
    values = np.stack([faces[0].values for faces in described])  # type: ignore[index]
    assert np.allclose(values, expected, atol=1e-4)


def test_call__kinds_of_images_and_empty_lists(
    describe: FaceAttributes, drawn_celeba: Path
) -> None:
    path = first_image(drawn_celeba)
    pixels = np.asarray(Image.open(path))
    nobody = np.zeros((50, 60), np.uint8)
    many = describe([path, pixels, nobody, torch.from_numpy(pixels.copy()).permute(2, 0, 1)])
    assert [len(faces) for faces in many] == [1, 1, 0, 1]  # type: ignore[arg-type]
    single = describe(path)
    assert isinstance(single[0], FaceDescription)
    assert np.array_equal(single[0].values, many[1][0].values)  # type: ignore[index]
    assert describe([]) == []
    assert describe(nobody) == []


def test_description__names_probabilities_answers() -> None:
    face = FaceDescription(
        np.zeros(4), np.zeros((5, 2)), 0.9, np.array([0.31, 0.49, 0.9], np.float32), THRESHOLDS
    )
    assert face.probabilities == pytest.approx(
        {"Red_Face": 0.31, "Wearing_Hat": 0.49, "Never": 0.9}
    )
    assert face.present == {"Red_Face": True, "Wearing_Hat": False, "Never": True}
    assert face.names == ["Red_Face", "Never"]
    assert repr(face) == "FaceDescription(Red_Face, Never)"


def test_call__aligned__needs_no_detector(network: AttributeNetwork, drawn_celeba: Path) -> None:
    def never(images: Sequence[np.ndarray]) -> list[FacesFound]:
        raise AssertionError(f"nobody should look for faces in {len(images)} images")

    describe = FaceAttributes.from_network(network, THRESHOLDS, (40, 32), "cpu", never)
    faces = describe(first_image(drawn_celeba), aligned=True)
    assert isinstance(faces[0], FaceDescription)
    assert faces[0].box.tolist() == [0, 0, 178, 218]
    assert np.isnan(faces[0].landmarks).all()


def test_stream__broken_image__others_go_on(
    describe: FaceAttributes, drawn_celeba: Path, tmp_path: Path
) -> None:
    from mobilevision.datasets.images import ImageFile

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no")
    good = first_image(drawn_celeba)
    outcomes = list(describe.stream(map(ImageFile, [good, broken, good]), batch_size=2))
    assert isinstance(outcomes[1], DataError)
    assert [len(each) for each in (outcomes[0], outcomes[2]) if isinstance(each, list)] == [1, 1]
    with pytest.raises(DataError, match="broken"):
        describe([good, broken])
    with pytest.raises(DataError, match="batch_size=0"):
        describe([good], batch_size=0)


def test_load__no_such_file__named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such model"):
        FaceAttributes.load(tmp_path / "gone.ckpt")


def test_from_network__callers_network__stays_as_it_is(
    network: AttributeNetwork,
) -> None:
    FaceAttributes.from_network(network, THRESHOLDS, (40, 32), "cpu")
    assert any(isinstance(each, torch.nn.BatchNorm2d) for each in network.modules())
    assert all(each.requires_grad for each in network.parameters())


@pytest.mark.parametrize("box", [(5, 5, 40, 40), (60, 60, 99, 99), (-20, -20, 300, 300)])
def test_draw_attributes__box_anywhere__drawn_inside(box: tuple[int, int, int, int]) -> None:
    image = np.full((100, 100, 3), 128, np.uint8)
    values = np.array([0.9, 0.8, 0.95], np.float32)
    face = FaceDescription(np.array(box, np.float32), np.zeros((5, 2)), 1.0, values, THRESHOLDS)
    drawn = draw_attributes(image, [face])
    assert drawn.shape == (700, 700, 3)  # the smallest whole number of times that shows names
    assert (image == 128).all()
    assert (drawn != 128).any(axis=2).mean() > 0.005


def test_draw_attributes__small_image__the_box_grows_with_it() -> None:
    image = np.full((100, 160, 3), 128, np.uint8)
    values = np.array([0.9, 0.8, 0.95], np.float32)
    face = FaceDescription(
        np.array([100, 20, 140, 60], np.float32), np.zeros((5, 2)), 1.0, values, THRESHOLDS
    )
    drawn = draw_attributes(image, [face])
    assert drawn.shape == (400, 640, 3)
    assert (drawn[160, 400:404] != 128).any()  # its left side
    assert (drawn[160, 420:540] == 128).all()  # inside
    assert (drawn[160, 557:561] != 128).any()  # its right side


def test_draw_attributes__nobody__the_image() -> None:
    image = np.full((100, 640, 3), 7, np.uint8)
    assert np.array_equal(draw_attributes(image, []), image)


@pytest.mark.real_data
@pytest.mark.parametrize("detector", [None, "mtcnn"])
@pytest.mark.usefixtures("public_retinaface")
def test_call__real_face_in_a_photograph__framed_as_in_training(
    network: AttributeNetwork, real_data: Path, detector: str | None
) -> None:
    pytest.importorskip("facenet_pytorch")
    from mobilevision.datasets.faces.alignment import crop_face

    table = read_celeba(real_data / "celeba").table
    assert table.landmarks is not None
    photograph = np.full((700, 900, 3), 90, np.uint8)
    face = Image.open(table.paths[0]).resize((356, 436), Image.Resampling.BICUBIC)
    photograph[150:586, 300:656] = np.asarray(face)
    describe = FaceAttributes.from_network(network, THRESHOLDS, (160, 128), "cpu", detector)
    (found,) = describe(photograph)
    assert isinstance(found, FaceDescription)
    expected = table.landmarks[0] * 2 + (300.5, 150.5)
    # The eyes are 76 px apart; MTCNN made the expected ones.
    assert np.abs(found.landmarks - expected).max() < (8 if detector else 12)
    crop, _ = crop_face(photograph, found.landmarks, (160, 128))
    trained, _ = crop_face(np.asarray(Image.open(table.paths[0])), table.landmarks[0], (160, 128))
    inside = np.s_[8:152, 8:120]
    difference = np.abs(crop[inside].astype(float) - trained[inside])
    other, _ = crop_face(np.asarray(Image.open(table.paths[1])), table.landmarks[1], (160, 128))
    assert difference.mean() < 0.5 * np.abs(other[inside].astype(float) - trained[inside]).mean()
