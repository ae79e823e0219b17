"""``mobilevision verify`` and the picture of the ROC."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps.callbacks.roc import draw_roc
from mobilevision.apps.faces.verify import store_threshold, verify_model
from mobilevision.apps.main import main
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.vectors import VectorTable, write_vectors
from mobilevision.heads.checkpoints import Plan
from mobilevision.heads.face_embedding import FaceEmbeddingTask, FaceNetwork
from mobilevision.heads.face_embedding.rates import roc_curve
from mobilevision.heads.face_embedding.verification import measure_scores

LIST = "2\t1\nA\t1\t2\nA\t1\tB\t1\nB\t1\t2\nB\t2\tC\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three people of one colour each, their pairs and a table of embeddings."""
    rng = np.random.default_rng(0)
    names = ["A/A_0001.png", "A/A_0002.png", "B/B_0001.png", "B/B_0002.png", "C/C_0001.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), pixels)
    (tmp_path / "pairs.txt").write_text(LIST)
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, -0.1]], np.float32)
    write_vectors(tmp_path / "table.npz", VectorTable(np.array(names), vectors))
    return tmp_path


def checkpoint(path: Path) -> Path:
    backbone = Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": [32]})
    plan = Plan(FaceNetwork, {"backbone": backbone, "dimension": 8})
    torch.manual_seed(0)
    network = plan.build()
    content = {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        "hyper_parameters": {
            "network": plan.as_plain(),
            "_class_path": f"{FaceEmbeddingTask.__module__}.FaceEmbeddingTask",
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        "mobilevision": {"format": 1, "size_hw": [32, 32]},
    }
    torch.save(content, path)
    return path


def test_verify__a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "--pairs", str(folder / "pairs.txt"),
             "--embeddings", str(folder / "table.npz")]  # fmt: skip
    assert main([*words, "--json", "--roc", str(folder / "out" / "roc.png")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["accuracy"] == 1
    assert content["pairs"] == 4
    assert content["all"]["impostor_pairs"] == 8
    with Image.open(folder / "out" / "roc.png") as picture:
        assert picture.format == "PNG"
    assert main(words) == 0
    assert "accuracy         1.0000 ± 0.0000" in capsys.readouterr().out


def test_verify__a_checkpoint_and_its_threshold(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(folder / "face.ckpt")
    words = ["verify", "--pairs", str(folder / "pairs.txt"), "--images", str(folder),
             "--model", str(path), "--batch-size", "2", "--device", "cpu"]  # fmt: skip
    assert main([*words, "--json", "--store"]) == 0
    content = json.loads(capsys.readouterr().out)
    stored = torch.load(path, weights_only=True)["mobilevision"]
    assert stored["verification"]["threshold"] == content["threshold"]
    assert stored["verification"]["far"] == content["far"]
    assert stored["size_hw"] == [32, 32]
    one = verify_model(folder / "pairs.txt", folder, str(path), batch_size=5, device="cpu")
    assert one.auc == content["auc"]


def test_verify__a_checkpoint_embeds_as_the_task_does(folder: Path) -> None:
    from mobilevision.apps.faces.verify import verify_table

    path = checkpoint(folder / "face.ckpt")
    network = FaceEmbeddingTask.load_from_checkpoint(path, weights_only=True).network.eval()
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    faces = np.stack([cv2.imread(str(folder / file))[..., ::-1] for file in files])
    with torch.no_grad():
        rows = network(torch.from_numpy(faces).permute(0, 3, 1, 2)).numpy()
    write_vectors(folder / "own.npz", VectorTable(np.array(files), rows))
    ours = verify_model(folder / "pairs.txt", folder, str(path), device="cpu")
    theirs = verify_table(folder / "pairs.txt", folder / "own.npz")
    np.testing.assert_allclose(ours.roc.thresholds[1:], theirs.roc.thresholds[1:], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --images and --model, or --embeddings"),
        (["--embeddings", "t.npz", "--model", "m.ckpt"], "give either"),
        (["--model", "m.ckpt"], "--model needs the pictures"),
        (["--embeddings", "t.npz", "--store"], "--store needs a checkpoint"),
        (["--embeddings", "absent.npz"], "absent.npz: no such file"),
    ],
)
def test_verify__options_that_do_not_fit(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--pairs", "pairs.txt", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_store__only_in_our_checkpoints(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    scores, same = np.array([0.9, 0.1, 0.8, 0.2]), np.array([True, False] * 2)
    result = measure_scores(scores, same, np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="our checkpoints only"):
        store_threshold(tmp_path / "other.ckpt", result)


def test_roc_picture__shows_a_curve() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.5
    good, poor = (roc_curve(rng.normal(np.where(same, gap, 0), 1), same) for gap in (5, 0.5))
    pictures = []
    for roc in (good, poor):
        png = io.BytesIO()
        draw_roc({"x": roc}, 200).savefig(png, format="png")
        pictures.append(np.asarray(Image.open(png).convert("RGB")).astype(int))
    blue = [(p[..., 2] - p[..., 0] > 90) for p in pictures]
    heights = [np.flatnonzero(b.any(axis=1)).max() for b in blue]  # the lowest point of the curve
    assert heights[0] < heights[1]


@pytest.mark.real_data
def test_verify__the_teacher_on_lfw(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    words = ["--pairs", str(real_data / "lfw" / "pairs.txt"),
             "--embeddings", str(real_data / "teacher" / "lfw.parquet")]  # fmt: skip
    assert main(["verify", *words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    figures = {name: round(content[name], 4) for name in ("accuracy", "std", "auc")}
    assert figures == {"accuracy": 0.9940, "std": 0.0034, "auc": 0.9992}
    assert (content["pairs"], content["impostor_pairs"]) == (6000, 3000)
    assert content["all"]["impostor_pairs"] == 29_640_749
