"""``mobilevision verify`` and the image of the ROC."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps import FaceEmbedder
from mobilevision.apps.callbacks.plots import draw_roc
from mobilevision.apps.faces.verify import HeldOut, store_threshold, verify_model, verify_table
from mobilevision.apps.main import main
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.vectors import VectorTable, write_vectors
from mobilevision.heads.checkpoint import Plan
from mobilevision.heads.face_embedding import FaceEmbeddingTask, FaceNetwork
from mobilevision.heads.face_embedding.far_frr import roc_curve
from mobilevision.heads.face_embedding.verification import measure_scores

LIST = "2\t1\nA\t1\t2\nA\t1\tB\t1\nB\t1\t2\nB\t2\tC\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three people of one color each, their pairs and a table of embeddings."""
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


def checkpoint(path: Path, verification: dict[str, float] | None = None) -> Path:
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
        "mobilevision": {"format": 1, "size_hw": [32, 32], "verification": verification},
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
    with Image.open(folder / "out" / "roc.png") as image:
        assert image.format == "PNG"
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
    held_out = HeldOut(folder, folder / "pairs.txt")
    one = verify_model(held_out, str(path), batch_size=5, device="cpu")
    assert one.auc == content["auc"]


def test_verify__a_checkpoint_embeds_as_the_task_does(folder: Path) -> None:
    path = checkpoint(folder / "face.ckpt")
    network = FaceEmbeddingTask.load_from_checkpoint(path, weights_only=True).network.eval()
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    faces = np.stack([cv2.imread(str(folder / file))[..., ::-1] for file in files])
    with torch.no_grad():
        rows = network(torch.from_numpy(faces).permute(0, 3, 1, 2)).numpy()
    write_vectors(folder / "own.npz", VectorTable(np.array(files), rows))
    held_out = HeldOut(folder, folder / "pairs.txt")
    ours = verify_model(held_out, str(path), device="cpu")
    theirs = verify_table(held_out, folder / "own.npz")
    np.testing.assert_allclose(ours.roc.thresholds[1:], theirs.roc.thresholds[1:], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give two photos and --model; or, to measure, either --images and --model, or"),
        (["--embeddings", "t.npz", "--model", "m.ckpt"], "to measure, either"),
        (["--threshold", "0.4", "--embeddings", "t.npz"], "are for two photos"),
        (["a.jpg", "b.jpg", "--model", "m.ckpt"], "--pairs is for measuring a model"),
        (["--model", "m.ckpt"], "--model needs the images"),
        (["--embeddings", "t.npz", "--store"], "--store needs a checkpoint"),
        (["--embeddings", "absent.npz"], "absent.npz: no such file"),
        (["--model", "m.ckpt", "--images", ".", "--groups", "Male"], "--groups needs attributes"),
        (["--model", "m.ckpt", "--images", ".", "--layout", "celeba"], "leave --pairs"),
    ],
)
def test_verify__options_that_do_not_fit(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--pairs", "pairs.txt", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_verify__pairs_are_drawn_where_no_list_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"person {person}/{number}.jpg" for person in range(6) for number in range(3)]
    vectors = np.repeat(np.eye(6, dtype=np.float32), 3, axis=0)
    write_vectors(tmp_path / "table.npz", VectorTable(np.array(names), vectors))
    assert main(["verify", "--embeddings", str(tmp_path / "table.npz"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    # Three folds of two people: 6 pairs of one person in each, and as many of the 9 others.
    assert (content["folds"], content["pairs"], content["impostor_pairs"]) == (3, 36, 18)
    assert content["accuracy"] == 1


# --- two photos


@pytest.fixture
def photos(tmp_path: Path) -> tuple[str, str, str]:
    """A face in two lights, and another one, as aligned crops."""
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 200, (2, 32, 32, 3), dtype=np.uint8)
    for name, pixels in (("a", one), ("b", one + 20), ("c", other)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tuple(str(tmp_path / f"{name}.png") for name in "abc")  # type: ignore[return-value]


def compared(
    words: list[object], capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object]]:
    status = main(["verify", *map(str, words), "--aligned", "--device", "cpu", "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_two_photos__status_and_json_say_the_decision(
    photos: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = photos
    measured = {"dataset": "here", "impostor_pairs": 3000, "far": 0.002}
    path = checkpoint(tmp_path / "face.ckpt", {"threshold": -1.0, **measured})
    status, said = compared([a, b, "--model", path], capsys)
    assert (status, said["same"], said["threshold"], said["far"]) == (0, True, -1, 0.002)
    assert said["measured"] == {"threshold": -1, **measured}
    alike = said["similarity"]
    # The cosine of the embeddings that the task's own network gives.
    network = FaceEmbeddingTask.load_from_checkpoint(path, weights_only=True).network.eval()
    faces = np.stack([np.array(Image.open(photo)) for photo in (a, b)])
    with torch.no_grad():
        first, second = network(torch.from_numpy(faces).permute(0, 3, 1, 2)).numpy()
    assert alike == pytest.approx(float(first @ second), abs=1e-4)
    path = checkpoint(tmp_path / "strict.ckpt", {"threshold": 1.0, **measured})
    status, said = compared([a, c, "--model", path], capsys)
    assert (status, said["same"]) == (1, False)
    status, said = compared([a, a, "--model", path, "--threshold", 0.9], capsys)
    assert (status, said["same"], said["far"], said["threshold"]) == (0, True, None, 0.9)


def test_two_photos__text(
    photos: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path / "face.ckpt", {"threshold": 0.5, "far": 0.00123})
    words = ["verify", *photos[:1], photos[0], "--model", str(path), "--aligned"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the same person: similarity 1.000, threshold 0.500"
    assert lines[1] == "threshold 0.5000: 0.123% of pairs of different people reached it"
    assert lines[2].startswith("errors by group were not measured")
    assert main([*words, "--threshold", "0.7"]) == 0
    assert "the threshold is yours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png", "--model", "face.ckpt"], "1 photos: give two"),
        (["a.png", "b.png", "c.png", "--model", "face.ckpt"], "3 photos"),
        (["a.png", "b.png"], "give the network that compares the photos: --model"),
        (["a.png", "absent.png", "--model", "face.ckpt", "--aligned"], "absent.png"),
        (["a.png", "b.png", "--model", "plain.ckpt", "--aligned"], "no threshold was measured"),
        (["a.png", "b.png", "--model", "face.ckpt", "--size", "20"], "--size is for measuring"),
        (["a.png", "b.png", "--model", "face.ckpt", "--store"], "--store is for measuring"),
    ],
)
def test_two_photos__what_is_missing(
    photos: tuple[str, str, str], words: list[str], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert photos
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "face.ckpt", {"threshold": 0.5, "far": 0.01})
    checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(SystemExit) as stop:
        main(["verify", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="no rights of group and others here")
def test_verify__table_that_others_can_open__said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "table.npz"
    words = ["verify", "--pairs", str(folder / "pairs.txt"), "--embeddings", str(table)]
    for mode, warned in ((0o640, True), (0o600, False)):
        table.chmod(mode)
        assert main(words) == 0
        assert (f"warning: {table}: others can open this file" in capsys.readouterr().err) == warned


def celeba_words(root: Path, *words: str) -> list[str]:
    return ["verify", "--images", str(root), "--layout", "celeba", "--parts", "train", "val",
            "test", *words]  # fmt: skip


def test_verify__groups_of_a_table(
    drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.npz"
    numbers = np.arange(24, 0, -1)  # in another order than the lists
    vectors = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    write_vectors(table, VectorTable(np.array([f"{n:06}.jpg" for n in numbers]), vectors))
    words = celeba_words(drawn_celeba, "--embeddings", str(table))
    assert main([*words, "--groups", "Red_Face", "Never", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    groups = content["groups"]
    assert (groups["threshold"], groups["threshold_origin"]) == (
        content["threshold"], "best on the pairs above"
    )  # fmt: skip
    red = groups["by_attribute"]["Red_Face"]["yes"]
    # Odd numbers; four in a row are one person: 66 pairs, of which (4k+1, 4k+3) are genuine.
    assert (red["faces"], red["people"], red["genuine"], red["impostors"]) == (12, 6, 6, 60)
    assert (red["far"], red["eer"]) == (None, None)
    assert groups["by_attribute"]["Never"]["yes"]["faces"] == 0
    assert groups["by_attribute"]["Never"]["no"] == groups["all"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    owners = numbers // 4
    impostors = np.triu(owners[:, None] != owners, 1)
    assert groups["all"]["impostors"] == impostors.sum()
    far = (unit @ unit.T >= groups["threshold"])[impostors].mean()
    assert groups["all"]["far"] == pytest.approx(far)
    assert main(words) == 0
    assert "Within groups" not in capsys.readouterr().out  # neither Male nor Young is there


def test_verify__groups_at_the_threshold_of_the_checkpoint(
    drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path / "face.ckpt", {"threshold": 1.0, "far": 0.0})
    words = celeba_words(drawn_celeba, "--model", str(path), "--device", "cpu")
    assert main([*words, "--groups", "Wearing_Hat", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert (groups["threshold"], groups["threshold_origin"]) == (1.0, "the checkpoint's own")
    assert groups["all"]["far"] == 0
    with pytest.raises(SystemExit):
        main([*words, "--groups", "Bald"])
    assert "no attribute Bald; there are Red_Face, Wearing" in capsys.readouterr().err


def test_store__groups_at_the_stored_threshold(
    drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path / "face.ckpt", {"threshold": 1.0, "far": 0.0})
    words = celeba_words(drawn_celeba, "--model", str(path), "--device", "cpu")
    assert main([*words, "--groups", "Wearing_Hat", "--json", "--store"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["groups"]["threshold"] == content["threshold"] < 1
    measured = FaceEmbedder.load(path, device="cpu").threshold
    assert measured is not None
    assert measured.groups is not None
    assert measured[:4] == (
        content["threshold"], content["far"], content["dataset"], content["impostor_pairs"]
    )  # fmt: skip
    parts = content["groups"]["by_attribute"]["Wearing_Hat"]
    assert {name: rates._asdict() for name, rates in measured.groups.items()} == {
        "all": content["groups"]["all"],
        "Wearing_Hat: yes": parts["yes"],
        "Wearing_Hat: no": parts["no"],
    }
    assert main(words) == 0  # neither Male nor Young is there
    assert "errors by group were not measured" in capsys.readouterr().err


def test_verify__faces_that_the_table_lacks(
    drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vectors(
        tmp_path / "table.npz", VectorTable(np.array(["000001.jpg"]), np.ones((1, 2), "f4"))
    )
    with pytest.raises(SystemExit):
        main(celeba_words(drawn_celeba, "--embeddings", str(tmp_path / "table.npz")))
    assert "23 of 24 faces are not in it: 000002.jpg" in capsys.readouterr().err


def test_store__only_in_our_checkpoints(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    scores, same = np.array([0.9, 0.1, 0.8, 0.2]), np.array([True, False] * 2)
    result = measure_scores(scores, same, np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="our checkpoints only"):
        store_threshold(tmp_path / "other.ckpt", result)


def test_roc_image__shows_a_curve() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.5
    good, poor = (roc_curve(rng.normal(np.where(same, gap, 0), 1), same) for gap in (5, 0.5))
    images = []
    for roc in (good, poor):
        png = io.BytesIO()
        draw_roc("x", roc, 200).savefig(png, format="png")
        images.append(np.asarray(Image.open(png).convert("RGB")).astype(int))
    blue = [(p[..., 2] - p[..., 0] > 90) for p in images]
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


@pytest.mark.real_data
def test_verify__the_teacher_by_group(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = real_data / "teacher" / "celeba.parquet"
    words = ["verify", "--images", str(real_data / "celeba"), "--layout", "celeba",
             "--embeddings", str(table), "--json"]  # fmt: skip
    assert main(words) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["groups"]["by_attribute"]) == {"Male", "Young"}
    # The women of the validation part, from the lists themselves.
    root = real_data / "celeba"
    lines = [line.split() for line in (root / "list_attr_celeba.txt").read_text().splitlines()]
    column = lines[1].index("Male") + 1
    male = {line[0]: line[column] == "1" for line in lines[2:]}
    part, person = (
        dict(line.split() for line in (root / name).read_text().splitlines())
        for name in ("list_eval_partition.txt", "identity_CelebA.txt")
    )
    content_of = parquet.read_table(table).to_pydict()
    chosen = [row for row, file in enumerate(content_of["file"])
              if part[file] == "1" and not male[file]]  # fmt: skip
    rows = np.array(content_of["embedding"], np.float32)[chosen]
    owners = np.array([person[content_of["file"][row]] for row in chosen])
    above = np.triu(np.ones((len(rows), len(rows)), bool), 1)
    same = owners[:, None] == owners
    accepted = rows @ rows.T >= content["groups"]["threshold"]
    women = content["groups"]["by_attribute"]["Male"]["no"]
    assert (women["genuine"], women["impostors"]) == ((above & same).sum(), (above & ~same).sum())
    assert women["far"] == pytest.approx(accepted[above & ~same].mean(), abs=1e-4)
    assert women["frr"] == pytest.approx(1 - accepted[above & same].mean(), abs=1e-4)
