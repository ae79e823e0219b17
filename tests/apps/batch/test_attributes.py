import csv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from mobilevision.apps import FaceAnalyzer
from mobilevision.apps.inference.face_detection import FaceDetector
from mobilevision.apps.main import main
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.checkpoint import Plan, write_checkpoint
from mobilevision.heads.face_attributes import AttributeNetwork, AttributeTask
from mobilevision.heads.faces import FacesNetwork, FacesTask

NAMES = {0: "Red_Face", 1: "Wearing_Hat"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": [32]})
    plan = Plan(AttributeNetwork, {"backbone": backbone, "num_classes": 2})
    path = tmp_path_factory.mktemp("model") / "attributes.ckpt"
    write_checkpoint(path, AttributeTask, plan, plan.build(), NAMES, (40, 32), {})
    return path


class TwoFaces:
    """Finds two faces in images of 178 x 218 px, and none in others."""

    score_threshold, input_size = 0.9, "any"

    def __call__(self, images: Sequence[np.ndarray]) -> list[Any]:
        where = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]], np.float32)
        counts = [2 * (image.shape == (218, 178, 3)) for image in images]
        boxes = np.array([[84, 104, 94, 114], [40, 70, 120, 200]], np.float32)
        points = np.stack([where / 2, where])
        return [
            SimpleNamespace(boxes=boxes[:n], landmarks=points[:n], scores=np.ones(n, np.float32))
            for n in counts
        ]


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaceDetector, "load", lambda *_args: TwoFaces())


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.usefixtures("two_faces")
def test_attributes__folder_to_csv_with_images(
    model: Path, drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in (1, 2):
        Image.open(drawn_celeba / "img_align_celeba" / f"{number:06d}.jpg").save(
            photos / f"{number}.png"
        )
    Image.new("RGB", (60, 50)).save(photos / "nobody.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8no")
    out = tmp_path / "out" / "t.csv"
    words = ["attributes", str(photos), "--model", str(model), "--out", str(out), "--pictures",
             str(tmp_path / "drawn"), "--detector", "mtcnn"]  # fmt: skip
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "3 of 4 files, 4 rows" in text
    assert "broken.jpg" in text
    rows = rows_of(out)
    assert [(row["file"], row["face"]) for row in rows] == [
        ("1.png", "0"), ("1.png", "1"), ("2.png", "0"), ("2.png", "1")
    ]  # fmt: skip
    assert [rows[0][name] for name in ("x1", "y1", "x2", "y2", "lefteye_x")] == [
        "40", "70", "120", "200", "69"
    ]  # fmt: skip
    for row in rows:
        for name in NAMES.values():
            assert row[f"{name}_yes"] == str(int(float(row[name]) >= 0.5))
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 3

    (photos / "broken.jpg").unlink()
    again = [*words[:1], str(photos), *words[2:]]
    assert main(again) == 0
    assert "3 files are done already" in capsys.readouterr().err
    assert rows_of(out) == rows


def test_attributes__aligned_to_parquet(model: Path, drawn_celeba: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "t.parquet"
    folder = drawn_celeba / "img_align_celeba"
    assert main(["attributes", str(folder), "--aligned", "--model", str(model), "--out", str(out),
                 "--batch-size", "5"]) == 0  # fmt: skip
    table = parquet.read_table(out)
    assert table.num_rows == 24
    assert table["file"][0].as_py() == "000001.jpg"
    assert np.isnan(table["nose_x"][0].as_py())
    yes = np.array(table["Wearing_Hat"]) >= 0.5
    assert np.array(table["Wearing_Hat_yes"]).tolist() == yes.astype(int).tolist()


@pytest.mark.usefixtures("two_faces")
def test_attributes__one_face__one_row_an_image_and_no_resuming_with_another(
    model: Path, drawn_celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.csv"
    path = drawn_celeba / "img_align_celeba" / "000001.jpg"
    words = ["attributes", str(path), "--detector", "mtcnn", "--model", str(model), "--out",
             str(out), "--faces"]  # fmt: skip
    for faces, left in (("largest", "40"), ("center", "84")):
        assert main([*words, faces]) == 0
        assert [row["x1"] for row in rows_of(out)] == [left]
    assert "is of a run with another faces; starting over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "t.txt"], "ends in .parquet or .csv"),
        (["--out", "t.csv", "--batch-size", "0"], "at least 1"),
        (["--out", "t.csv", "--device", "abacus"], "abacus"),
    ],
)
def test_attributes__bad_option__status_2(
    model: Path,
    drawn_celeba: Path,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["attributes", str(drawn_celeba), "--model", str(model), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_attributes__no_model__status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["attributes", str(tmp_path), "--model", "gone.ckpt", "--out", "t.csv"])
    assert stopped.value.code == 2
    assert "gone.ckpt: no such model" in capsys.readouterr().err


def test_analyze__aligned__the_embedding_of_each_face_besides(
    drawn_celeba: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": (32,)})
    plan = Plan(FacesNetwork, {"backbone": backbone, "num_classes": 2, "dimension": 8})
    model, out = tmp_path / "faces.ckpt", tmp_path / "faces.parquet"
    write_checkpoint(model, FacesTask, plan, plan.build(), NAMES, (40, 32), {})
    faces = drawn_celeba / "img_align_celeba"
    assert main(["analyze", str(faces), "--model", str(model), "--out", str(out), "--aligned"]) == 0
    rows = parquet.read_table(out).to_pylist()
    analyze = FaceAnalyzer.load(model, "cpu")
    found = analyze([faces / row["file"] for row in rows], aligned=True)
    assert len(rows) == len(list(faces.iterdir()))
    for row, (face,) in zip(rows, found, strict=True):  # type: ignore[misc]
        np.testing.assert_allclose(row["embedding"], face.embedding, atol=1e-4)
        assert row["Red_Face"] == pytest.approx(face.probabilities["Red_Face"], abs=1e-4)
        assert row["Red_Face_yes"] == face.present["Red_Face"]
