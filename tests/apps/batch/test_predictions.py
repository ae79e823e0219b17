"""``mobilevision classify``: lines, tables, going on, and files that cannot be read."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from mobilevision.apps import Classifier
from mobilevision.apps.batch.videos import mp4_writer
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
    monkeypatch.setattr(Classifier, "find", lambda model, _: Path(model))
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


@pytest.fixture
def clip(photos: Path) -> Path:
    with mp4_writer(photos / "clip.mp4", fps=10) as writer:
        for color in ((250, 9, 4), (9, 4, 250), (4, 250, 9)):
            writer.write(np.full((48, 64, 3), color, np.uint8))
    return photos / "clip.mp4"


@pytest.mark.usefixtures("clip")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_classify__video_among_images__rows_of_every_frame(
    photos: Path, runtime: Colors, suffix: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / f"classes.{suffix}"
    words = ["classify", str(photos), "--model", str(photos.parent / "model.ckpt"), "--top", "1"]
    assert main([*words, "--out", str(out)]) == 0
    if suffix == "csv":
        rows = list(csv.DictReader(out.open()))
    else:
        rows = [
            {key: f"{value:g}" if isinstance(value, float | int) else value
             for key, value in row.items()} for row in parquet.read_table(out).to_pylist()
        ]  # fmt: skip
    found = [(row["file"], row["frame"], row["time_s"], row["class"]) for row in rows]
    assert found == [
        ("a.png", "0", "0", "red"), ("b.png", "0", "0", "blue"), ("c.png", "0", "0", "green"),
        ("clip.mp4", "0", "0", "red"), ("clip.mp4", "1", "0.1", "blue"),
        ("clip.mp4", "2", "0.2", "green"),
    ]  # fmt: skip
    assert "4 of 4 files" in capsys.readouterr().out
    assert main([*words, "--out", str(out)]) == 0
    assert runtime.seen == 6, "what is done is not done again"
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20] for line in lines[-3:]] == [
        "clip.mp4 0.00 s: red", "clip.mp4 0.10 s: blu", "clip.mp4 0.20 s: gre"
    ]  # fmt: skip


@pytest.mark.usefixtures("runtime")
def test_classify__cut_video__a_fault_without_rows(
    clip: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    clip.write_bytes(clip.read_bytes()[:200])
    out = tmp_path / "classes.csv"
    model = str(photos.parent / "model.ckpt")
    assert main(["classify", str(photos), "--model", model, "--top", "1", "--out", str(out)]) == 1
    assert {row["file"] for row in csv.DictReader(out.open())} == {"a.png", "b.png", "c.png"}
    assert "clip.mp4: cannot be opened as a video" in capsys.readouterr().out


@pytest.mark.usefixtures("runtime")
def test_classify__images_at_addresses__fetched_each_time(
    photos: Path, server: tuple[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    url, folder = server
    (folder / "a.png").write_bytes((photos / "a.png").read_bytes())
    (folder / "no.png").write_text("no image")
    out = tmp_path / "classes.csv"
    words = [
        "classify",
        f"{url}/a.png",
        f"{url}/no.png",
        f"{url}/absent.png",
        str(photos / "b.png"),
    ]
    words += ["--model", str(photos.parent / "model.ckpt"), "--top", "1", "--out", str(out)]
    assert main(words) == 1
    rows = [(row["file"], row["class"]) for row in csv.DictReader(out.open())]
    assert rows == [(f"{url}/a.png", "red"), (str(photos / "b.png"), "blue")]
    said = capsys.readouterr().out
    assert f"{url.partition('://')[2]}/no.png: not an image in any known format" in said
    assert f"{url}/absent.png: the server answered 404" in said
    (folder / "a.png").write_bytes((photos / "c.png").read_bytes())
    assert main(words) == 1
    assert next(csv.DictReader(out.open()))["class"] == "green", "it is another image now"


def test_classify__camera_that_breaks_off__rows_are_kept(
    photos: Path, runtime: Colors, camera: Callable[..., list[object]], tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    camera(5)
    out, model = tmp_path / "classes.csv", str(photos.parent / "model.ckpt")
    assert main(["classify", "0", "--model", model, "--top", "1", "--out", str(out)]) == 1
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == runtime.seen >= 1
    assert rows[-1]["frame"] == "4"
    assert {row["file"] for row in rows} == {"camera0"}
    said = capsys.readouterr()
    assert "1 of 1 files" in said.out
    assert "camera 0: broke off after 5 frames" in said.out
    assert f"camera0: {len(rows)} frames in " in said.err
    assert f"{5 - len(rows)} left out, because newer ones had come" in said.err
