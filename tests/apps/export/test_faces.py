"""Exported face networks from Python: the answers of their checkpoints, in every format."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps import FaceAnalyzer, FaceAttributes, FaceEmbedder, Threshold
from mobilevision.apps.export.exporting import Exported, made_up_image
from mobilevision.apps.inference.face_detection import FindFaces
from mobilevision.apps.inference.face_embedding import model_fingerprint
from mobilevision.apps.inference.runtime import is_exported, open_runtime
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.vectors import read_vectors
from mobilevision.heads.face_embedding.fairness import GroupRates

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

Files = Callable[[str], Path]
Exports = Callable[[str], Exported]
APIS = {
    "face_attributes": FaceAttributes,
    "face_embedding": FaceEmbedder,
    "faces": FaceAnalyzer,
}
IMAGES = [made_up_image((64, 64)), made_up_image((90, 80))]
MEASURED = Threshold(0.31, 0.001, groups={"Hat: yes": GroupRates(9, 4, 99, 200, 0.005, None)})
CHOSEN = {"Smiling": 0.3, "Wearing_Hat": 0.5}


def said_of(face: Any) -> dict[str, np.ndarray]:
    """What is said of a face: its embedding, its attributes or both."""
    return {name: getattr(face, name) for name in ("embedding", "values") if hasattr(face, name)}


def assert_same_faces(ours: list, theirs: list) -> None:
    """Faces of several images, one in each, from two models."""
    for (mine,), (other,) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.box, other.box)
        for name, expected in said_of(other).items():
            np.testing.assert_allclose(said_of(mine)[name], expected, atol=1e-4)


def test_embedder__same_embeddings_as_the_checkpoint(exported: Exports, small: Files) -> None:
    path = exported("face_embedding").path
    ours, theirs = (FaceEmbedder.load(each, "cpu") for each in (path, small("face_embedding")))
    np.testing.assert_allclose(ours.embed_aligned(IMAGES), theirs.embed_aligned(IMAGES), atol=1e-4)
    assert ours.threshold == theirs.threshold == MEASURED
    assert ours.size == 64
    assert not is_exported(f"onnx:{path}"), "that word is for other people's networks"
    assert model_fingerprint(path)["kind"] == "exported"


def test_attributes__same_probabilities_as_the_checkpoint(exported: Exports, small: Files) -> None:
    path = exported("face_attributes").path
    ours, theirs = (FaceAttributes.load(each, "cpu") for each in (path, small("face_attributes")))
    assert_same_faces(ours(IMAGES, aligned=True), theirs(IMAGES, aligned=True))
    assert ours.thresholds == theirs.thresholds == CHOSEN
    with pytest.raises(DataError, match="works at 64x48 px"):
        FaceAttributes.load(path, size_hw=(32, 32))


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_analyzer__same_faces_as_the_checkpoint(
    suffix: str, exported: Exports, converted: Files, program: Files, small: Files
) -> None:
    if suffix == ".xml":
        pytest.importorskip("openvino")
    written = {".onnx": lambda kind: exported(kind).path, ".xml": converted, ".pt2": program}
    path = written[suffix]("faces")
    ours, theirs = (FaceAnalyzer.load(each, "cpu") for each in (path, small("faces")))
    assert path.suffix == suffix
    assert_same_faces(ours(IMAGES, aligned=True), theirs(IMAGES, aligned=True))
    assert ours.attributes == theirs.attributes == list(CHOSEN)
    assert ours.thresholds == theirs.thresholds == CHOSEN
    assert ours.size_hw == theirs.size_hw == (64, 48)
    assert ours.threshold == theirs.threshold == MEASURED
    with pytest.raises(DataError, match="works at 64x48 px"):
        FaceAnalyzer.load(path, size_hw=(32, 32))


def test_facts__faces__outputs_and_thresholds_of_both_jobs(exported: Exports) -> None:
    run = open_runtime(exported("faces").path, "cpu")
    assert list(run.metadata.outputs) == ["embeddings", "logits", "probabilities", "landmarks"]
    assert run.metadata.categories == {0: "Smiling", 1: "Wearing_Hat"}
    assert run.metadata.thresholds == CHOSEN
    assert run.metadata.details["verification"]["pairs"] == 6000
    described = open_runtime(exported("face_attributes").path, "cpu").metadata
    assert run.metadata.preparation == described.preparation
    said = run(np.stack([made_up_image((64, 48))] * 3))
    assert {name: value.shape for name, value in said.items()} == {
        "embeddings": (3, 8), "logits": (3, 2), "probabilities": (3, 2), "landmarks": (3, 5, 2)
    }  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(said["embeddings"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(said["probabilities"], 1 / (1 + np.exp(-said["logits"])), atol=1e-6)


@pytest.mark.parametrize("kind", APIS)
def test_load__file_of_another_job__says_what_opens_it(kind: str, exported: Exports) -> None:
    reader = APIS[kind].__name__
    for job, api in APIS.items():
        if job != kind:
            with pytest.raises(DataError, match=rf"for {kind}, not for {job}\. .* {reader}\.load"):
                api.load(exported(kind).path)


def test_load__onnx__runs_without_torch(exported: Exports, tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from mobilevision.apps import FaceAnalyzer, FaceAttributes, FaceEmbedder\n"
        "for api, path in zip((FaceAttributes, FaceEmbedder, FaceAnalyzer), sys.argv[1:]):\n"
        "    (face,) = api.load(path)(np.zeros((40, 50, 3), np.uint8), aligned=True)\n"
        "    print(hasattr(face, 'values'), hasattr(face, 'embedding'))\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, *(str(exported(kind).path) for kind in APIS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["True False", "False True", "True True", "False"]


COMMANDS = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
from mobilevision.apps.main import main
for line in sys.stdin:
    assert main(line.split()) == 0, line
"""


def test_commands__torch_blocked__find_embed_and_know_faces(
    exported: Exports, tmp_path: Path
) -> None:
    pytest.importorskip("lancedb")
    Image.fromarray(made_up_image((90, 120))).save(tmp_path / "group.png")
    detector, model = (exported(kind).path for kind in ("face_detection", "face_embedding"))
    faces = f"--model {model} --detector {detector} --faces center"
    lines = [
        f"detect group.png --model {detector} --out found",
        f"embed group.png {faces} --out faces.csv",
        f"gallery enroll Ada group.png {faces} --gallery people",
        f"gallery identify group.png {faces} --gallery people --json",
        "gallery list --gallery people",
        "gallery remove Ada --gallery people",
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], input="\n".join(lines), capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "found" / "results.json").read_text())) > 10
    assert read_vectors(tmp_path / "faces.csv").files.tolist() == ["group.png"]
    assert "Ada: 1 faces added" in done.stdout
    assert '"name": "Ada"' in done.stdout
    assert "Ada: 1 faces removed" in done.stdout


@pytest.mark.real_data
@pytest.mark.parametrize("kind", APIS)
def test_load__real_faces__same_answers_as_the_checkpoint(
    kind: str,
    exported: Exports,
    small: Files,
    listed_faces: Callable[..., FindFaces],
    real_data: Path,
) -> None:
    celeba = real_data / "celeba"
    names = (celeba / "list_attr_celeba.txt").read_text().splitlines()[2:10]
    paths = [celeba / "img_align_celeba" / name.split()[0] for name in names]
    detector = listed_faces(celeba, len(paths))
    found = [
        APIS[kind].load(model, "cpu", detector=detector)(paths, batch_size=3)
        for model in (exported(kind).path, small(kind))
    ]
    assert_same_faces(*found)
    said = [said_of(face) for (face,) in found[1]]
    for name in said[0]:
        spread = np.ptp([each[name] for each in said], axis=0)
        assert spread.min() > 1e-3, "different faces, different answers"
