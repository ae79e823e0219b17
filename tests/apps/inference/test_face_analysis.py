"""Both face jobs in one pass from Python."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mobilevision.apps import AnalyzedFace, FaceAnalyzer, similarity
from mobilevision.apps.cli import lightning
from mobilevision.apps.inference.face_detection import FacesFound, FindFaces
from mobilevision.apps.inference.face_pipeline import Threshold
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.module import CelebAPeopleModule
from mobilevision.heads.faces import FacesNetwork

THRESHOLDS = {"Red_Face": 0.3, "Wearing_Hat": 0.5, "Never": 0.9}
SIZE_HW = (40, 32)


@pytest.fixture(scope="module")
def network() -> FacesNetwork:
    """Untrained; different faces get different embeddings."""
    torch.manual_seed(0)
    network = FacesNetwork(MobileNetV1(0.25, out_strides=(32,)), 3, dimension=8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network(torch.randint(0, 256, (16, 3, *SIZE_HW), dtype=torch.uint8))
    return network.eval()


@pytest.fixture
def analyze(
    network: FacesNetwork, drawn_people: Path, listed_faces: Callable[..., FindFaces]
) -> FaceAnalyzer:
    detector = listed_faces(drawn_people)
    return FaceAnalyzer.from_network(
        network, THRESHOLDS, SIZE_HW, Threshold(0.4, 0.01), "cpu", detector
    )


def image(root: Path, number: int) -> Path:
    return root / "img_align_celeba" / f"{number:06d}.jpg"


def only(faces: list) -> AnalyzedFace:
    (face,) = faces
    assert isinstance(face, AnalyzedFace)
    return face


def test_call__same_crops_and_answers_as_evaluation(
    analyze: FaceAnalyzer, network: FacesNetwork, drawn_people: Path
) -> None:
    data = CelebAPeopleModule(drawn_people, size_hw=SIZE_HW, batch_size=6, num_workers=0)
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        expected = network(batch.images)
    faces = [only(faces) for faces in analyze(batch.paths, batch_size=4)]  # type: ignore[arg-type]
    embeddings = np.stack([face.embedding for face in faces])
    np.testing.assert_allclose(embeddings, expected.embeddings.numpy(), atol=1e-4)
    values = np.stack([face.values for face in faces])
    np.testing.assert_allclose(values, expected.attributes.logits.sigmoid().numpy(), atol=1e-4)


def test_call__one_pass_for_all_faces_of_a_batch(analyze: FaceAnalyzer, drawn_people: Path) -> None:
    passes = []
    analyze.runtime.network.network.register_forward_hook(  # type: ignore[attr-defined]
        lambda _, inputs, __: passes.append(len(inputs[0]))
    )
    analyze([image(drawn_people, number) for number in (13, 14, 15)])
    assert passes == [3]


def test_face__box_landmarks_score_embedding_and_attributes(
    analyze: FaceAnalyzer, drawn_people: Path
) -> None:
    face = only(analyze(image(drawn_people, 13)))
    assert face.box.tolist() == [40, 60, 130, 190]
    assert face.landmarks.shape == (5, 2)
    assert face.score == pytest.approx(0.97)
    assert face.embedding.shape == (8,)
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
    assert list(face.probabilities) == analyze.attributes == list(THRESHOLDS)
    assert face.present == {
        name: probability >= THRESHOLDS[name] for name, probability in face.probabilities.items()
    }
    assert repr(face).startswith("AnalyzedFace(")


def test_call__kinds_of_images_and_nobody(analyze: FaceAnalyzer, drawn_people: Path) -> None:
    path = image(drawn_people, 13)
    pixels = np.asarray(Image.open(path))
    nobody = np.zeros((50, 60), np.uint8)
    many = analyze([path, Image.open(path), nobody, torch.from_numpy(pixels.copy()).movedim(2, 0)])
    assert [len(faces) for faces in many] == [1, 1, 0, 1]  # type: ignore[arg-type]
    assert analyze(nobody) == []
    assert analyze([]) == []
    with pytest.raises(DataError, match="batch_size=0"):
        analyze(path, batch_size=0)


def test_call__aligned__needs_no_detector(network: FacesNetwork, drawn_people: Path) -> None:
    def never(images: Sequence[np.ndarray]) -> list[FacesFound]:
        raise AssertionError(f"nobody should look for faces in {len(images)} images")

    analyze = FaceAnalyzer.from_network(network, THRESHOLDS, SIZE_HW, device="cpu", detector=never)
    paths = [image(drawn_people, 13), image(drawn_people, 14)]
    faces = [only(faces) for faces in analyze(paths, aligned=True)]  # type: ignore[arg-type]
    assert faces[0].box.tolist() == [0, 0, 178, 218]
    assert np.isnan(faces[0].landmarks).all()
    assert faces[0].score == 1
    crop = analyze.crop(np.asarray(Image.open(paths[1])), None, np.zeros(4))
    with torch.no_grad():
        expected = network(torch.from_numpy(crop).movedim(2, 0)[None]).embeddings[0]
    np.testing.assert_allclose(faces[1].embedding, expected.numpy(), atol=1e-4)


def test_verify__images_faces_and_embeddings(analyze: FaceAnalyzer, drawn_people: Path) -> None:
    a, b = (only(analyze(image(drawn_people, number))) for number in (13, 16))
    expected = similarity(a.embedding, b.embedding)
    for first, second in ((image(drawn_people, 13), image(drawn_people, 16)), (a, b),
                          (a.embedding, b)):  # fmt: skip
        answer = analyze.verify(first, second)
        assert answer.similarity == pytest.approx(float(expected), abs=1e-5)
        assert answer.same == (answer.similarity >= 0.4)
        assert answer.far == 0.01
    with pytest.raises(DataError, match="the second image: no face found"):
        analyze.verify(a, np.zeros((9, 9, 3), np.uint8))


def test_load__checkpoint_of_a_training__thresholds_of_both_jobs(
    drawn_people: Path, listed_faces: Callable[..., FindFaces], tmp_path: Path
) -> None:
    config = {
        "seed_everything": 1,
        "trainer": {
            "default_root_dir": str(tmp_path), "max_epochs": 1, "accelerator": "cpu",
            "enable_progress_bar": False, "enable_model_summary": False,
        },
        "model": {
            "class_path": "mobilevision.heads.faces.FacesTask",
            "init_args": {
                "network": {
                    "class_path": "mobilevision.heads.faces.FacesNetwork",
                    "init_args": {
                        "backbone": {
                            "class_path": "mobilevision.backbone.MobileNetV1",
                            "init_args": {"width_mult": 0.25, "out_strides": [32]},
                        },
                        "dimension": 8,
                    },
                },
                "teacher": {
                    "class_path": "mobilevision.heads.face_embedding.TableTeacher",
                    "init_args": {"table": str(drawn_people / "teacher.npz")},
                },
            },
        },
        "data": {
            "class_path": "mobilevision.datasets.faces.module.CelebAPeopleModule",
            "init_args": {
                "root": str(drawn_people), "size_hw": list(SIZE_HW), "batch_size": 4,
                "num_workers": 0, "pairs_per_fold": 2,
            },
        },
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    lightning(["fit", "-c", str(tmp_path / "c.yaml")])
    path = next((tmp_path / "version_0" / "checkpoints").glob("*.ckpt"))
    # Thresholds are chosen for attributes with ten images of either answer; here there are fewer.
    content = torch.load(path, weights_only=True)
    content["mobilevision"]["thresholds"] = {"Red_Face": 0.25}
    torch.save(content, path)
    loaded = FaceAnalyzer.load(path, "cpu", detector=listed_faces(drawn_people))
    assert loaded.size_hw == SIZE_HW
    assert loaded.thresholds == {"Red_Face": 0.25, "Wearing_Hat": 0.5, "Never": 0.5}
    measured = content["mobilevision"]["verification"]
    assert loaded.threshold == Threshold.from_metadata(measured)
    assert loaded.threshold is not None
    assert loaded.threshold.far == measured["far"]
    face = only(loaded(image(drawn_people, 13)))
    network = FacesNetwork(MobileNetV1(0.25, out_strides=(32,)), 3, dimension=8).eval()
    prefix = "network."
    network.load_state_dict({name.removeprefix(prefix): value
                             for name, value in content["state_dict"].items()
                             if name.startswith(prefix)})  # fmt: skip
    pixels = np.asarray(Image.open(image(drawn_people, 13)))
    crop = torch.from_numpy(loaded.crop(pixels, face.landmarks, face.box)).movedim(2, 0)[None]
    with torch.no_grad():
        expected = network(crop).embeddings[0].numpy()
    np.testing.assert_allclose(face.embedding, expected, atol=1e-4)


def test_load__what_is_no_such_network__named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such model.* configs/face\.yaml"):
        FaceAnalyzer.load(tmp_path / "gone.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=r"no checkpoint of a network of faces in one pass"):
        FaceAnalyzer.load(tmp_path / "other.ckpt")
