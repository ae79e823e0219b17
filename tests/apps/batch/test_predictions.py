"""``mobilevision classify``: lines, tables, going on, and files that cannot be read."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from mobilevision.apps import Classifier
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.apps.main import main

Capture = pytest.CaptureFixture[str]


class Colors:
    """Says how red, green and blue images are."""

    metadata = ModelMetadata(
        "classification", (8, 8), {2: "red", 4: "green", 9: "blue"}, {},
        details={"crop_fraction": None},
    )  # fmt: skip

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.seen += len(images)
        sums = images.astype(np.float32).mean(axis=(1, 2)) + 1
        return {"probabilities": sums / sums.sum(axis=1, keepdims=True)}


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Colors:
    runtime = Colors()
    monkeypatch.setattr(Classifier, "load", lambda *_: Classifier(runtime))
    return runtime


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, color in {"a": (250, 9, 4), "b": (9, 4, 250), "c": (4, 250, 9)}.items():
        Image.new("RGB", (20, 10), color).save(folder / f"{name}.png")
    (tmp_path / "model.ckpt").write_text("1")
    return folder


def test_classify__prints_a_line_for_each_image(
    photos: Path, runtime: Colors, capsys: Capture
) -> None:
    model = str(photos.parent / "model.ckpt")
    assert main(["classify", str(photos), "--model", model, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["a.png:", "b.png:", "c.png:"]
    assert lines[0].startswith("a.png: red 0.9")
    assert ", green 0.0" in lines[0]
    assert "blue" not in lines[0]
    assert runtime.seen == 3
    assert list(photos.parent.glob("*.progress")) == []


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_classify__table__goes_on_and_counts_faults(
    photos: Path, runtime: Colors, suffix: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / f"classes.{suffix}"
    words = ["classify", str(photos), "--model", str(photos.parent / "model.ckpt")]
    words += ["--out", str(out)]
    (photos / "d.png").write_bytes(b"broken")
    assert main(words) == 1
    assert runtime.seen == 3
    output = capsys.readouterr()
    assert "3 of 4 files" in output.out
    assert "d.png: not an image" in output.out
    Image.new("RGB", (20, 10), (1, 1, 250)).save(photos / "d.png")
    assert main(words) == 0
    assert runtime.seen == 4, "what is done is not done again"
    if suffix == "csv":
        rows = [
            (row["file"], int(row["rank"]), row["class"], float(row["probability"]))
            for row in csv.DictReader(out.open())
        ]
    else:
        rows = [tuple(row.values()) for row in parquet.read_table(out).to_pylist()]
    best = {file: name for file, rank, name, _ in rows if rank == 1}
    assert best == {"a.png": "red", "b.png": "blue", "c.png": "green", "d.png": "blue"}
    assert len(rows) == 12
    for name in best:
        scores = [score for file, _, _, score in rows if file == name]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-4)


@pytest.mark.usefixtures("runtime")
def test_classify__wrong_options__named(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    model = str(photos.parent / "model.ckpt")
    for options, message in ((["--top", "0"], "at least 1"), (["--out", "a.txt"], ".csv")):
        with pytest.raises(SystemExit) as ended:
            main(["classify", str(photos), "--model", model, *options])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["classify", str(tmp_path / "none"), "--model", model])
    assert "no such file or folder" in capsys.readouterr().err


def test_classify__damaged_progress__named(
    photos: Path, runtime: Colors, tmp_path: Path, capsys: Capture
) -> None:
    words = ["classify", str(photos), "--model", str(photos.parent / "model.ckpt")]
    words += ["--out", str(tmp_path / "a.csv")]
    (tmp_path / "a.csv.progress").write_bytes(b"no database at all" * 100)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "a.csv.progress: does not keep what a run has done" in capsys.readouterr().err
    assert runtime.seen == 0
