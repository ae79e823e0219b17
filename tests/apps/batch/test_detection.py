"""``mobilevision detect``: what is written, what is reported, and going on after a kill."""

import inspect
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from PIL import Image

from mobilevision.apps.batch.videos import Video, mp4_writer
from mobilevision.apps.inference.detection import Detector
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.apps.main import main
from mobilevision.datasets.detection.coco import COCO_CATEGORIES
from mobilevision.datasets.detection.layout import Split
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.heads.detection import DetectionTask
from mobilevision.heads.detection.weights import load_tensorflow_ssd


class BrightFinder:
    """Finds the left half of every image, as sure as it is bright, and its right half less so."""

    metadata = ModelMetadata("detection", (32, 32), {1: "left", 4: "right"}, {})
    pause_s = 0.0

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(self.pause_s)
        scores = images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / np.float32(255)
        boxes = np.tile(np.float32([[0, 0, 16, 32], [16, 0, 32, 32]]), (len(images), 1, 1))
        labels = np.tile([0, 1], (len(images), 1))
        scores = np.concatenate([scores, scores / 4], axis=1)
        return {"boxes": boxes, "scores": scores, "labels": labels}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file; whatever is in it, the finder above is loaded."""
    monkeypatch.setattr(Detector, "load", lambda *_: Detector(BrightFinder()))
    path = tmp_path / "model.ckpt"
    path.write_text("1")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        level = np.full((40, 60 + index, 3), 50 * index, np.uint8)
        Image.fromarray(level).save(folder / f"{index}.png")
    return folder


def detect(model: Path, *words: object) -> int:
    return main(["detect", *map(str, words), "--model", str(model), "--batch-size", "2"])


def read(path: Path):
    return json.loads(path.read_bytes())


def test_detect__folder__images_results_and_summary(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert detect(model, photos, "--out", out) == 0
    rows = read(out / "results.json")
    assert [row["image_id"] for row in rows] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert rows[8] == {
        "image_id": 5, "category_id": 1, "bbox": [0, 0, 32, 40], "score": pytest.approx(200 / 255)
    }  # fmt: skip
    images = read(out / "results_images.json")["images"]
    assert images[4] == {"id": 5, "file_name": "4.png", "height": 40, "width": 64}
    written = sorted(path.name for path in (out / "pictures").iterdir())
    assert written == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    with Image.open(out / "pictures" / "4.jpg") as image:
        assert image.size == (64, 40)
    printed = capsys.readouterr().out
    assert "5 images: 2 objects with a score of at least 0.5\n  left 2\n" in printed
    assert str(out / "results.json") in printed
    assert f"Annotated images: {out / 'pictures'}\n" in printed


def test_detect__options__threshold_results_no_images(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "out", tmp_path / "elsewhere" / "r.json"
    assert detect(model, photos / "4.png", "--out", out, "--results", results, "--no-pictures",
                  "--score-threshold", 0.1) == 0  # fmt: skip
    assert len(read(results)) == 2
    assert not (out / "pictures").exists()
    assert "left 1, right 1" in capsys.readouterr().out


def test_detect__broken_files__reported_and_the_others_done(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.png").write_bytes((photos / "0.png").read_bytes()[:50])
    (photos / "2.png").write_bytes(b"")
    (photos / "clip.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    assert detect(model, photos, "--out", out) == 1
    printed = capsys.readouterr().out
    assert "3 images:" in printed
    assert "3 files with faults:" in printed
    for name in ("0.png", "2.png", "clip.mp4"):
        assert str(photos / name) in printed
    assert {row["image_id"] for row in read(out / "results.json")} == {2, 4, 5}
    Image.new("RGB", (8, 8)).save(photos / "0.png")
    assert detect(model, photos, "--out", out) == 1
    assert "2 files with faults:" in capsys.readouterr().out
    assert {row["image_id"] for row in read(out / "results.json")} == {1, 2, 4, 5}


def test_detect__again__nothing_is_done_twice_unless_something_changed(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    detect(model, photos, "--out", out)
    first, drawn = (out / "results.json").read_bytes(), out / "pictures" / "1.jpg"
    drawn.unlink()
    capsys.readouterr()
    detect(model, photos, "--out", out)
    assert "5 files are done already" in capsys.readouterr().err
    assert not drawn.exists()
    assert (out / "results.json").read_bytes() == first
    Image.new("RGB", (9, 9)).save(photos / "1.png")
    detect(model, photos, "--out", out)
    assert drawn.exists(), "another file by the same name is another file"
    drawn.unlink()
    model.write_text("2")
    detect(model, photos, "--out", out)
    assert "is of a run with another model; starting over" in capsys.readouterr().err
    assert drawn.exists()
    detect(model, photos, "--out", out, "--score-threshold", 0.2)
    assert "is of a run with another score threshold; starting over" in capsys.readouterr().err


def test_detect__output_inside_the_input__is_no_input(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        detect(model, photos, "--out", photos / "out")
        assert "5 images:" in capsys.readouterr().out


def test_detect__video__film_and_results_by_frame(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mp4_writer(tmp_path / "clip.mp4", fps=10) as writer:
        for level in (10, 90, 250):
            writer.write(np.full((48, 64, 3), level, np.uint8))
    out = tmp_path / "out"
    assert detect(model, tmp_path / "clip.mp4", "--out", out) == 0
    rows = read(out / "videos" / "clip.json")
    assert [row["image_id"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert rows[4]["score"] == pytest.approx(250 / 255, abs=0.02)
    assert [row["time_s"] for row in rows] == [0, 0, 0.1, 0.1, 0.2, 0.2]
    import cv2

    film = cv2.VideoCapture(str(out / "videos" / "clip.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert "\n1 video of 3 frames: 1 object with a score" in "\n" + capsys.readouterr().out
    assert read(out / "results.json") == []


def annotate(path: Path, names: list[str], categories: dict[int, str]) -> Path:
    images = [
        {"id": 70 + index, "file_name": name, "height": 40, "width": 60 + index}
        for index, name in enumerate(names)
    ]
    boxes = [
        {"id": row["id"], "image_id": row["id"], "category_id": 1, "area": 1200, "iscrowd": 0}
        | {"bbox": [0, 0, row["width"] / 2, 40]}
        for row in images
    ]
    named = [{"id": key, "name": name} for key, name in categories.items()]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": named}))
    return path


def test_detect__annotations__their_ids_and_the_coco_numbers(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = annotate(tmp_path / "gt.json", ["0.png", "1.png", "2.png"], {1: "left", 4: "right"})
    out = tmp_path / "out"
    files = [photos / f"{index}.png" for index in range(3)]
    assert detect(model, *files, "--out", out, "--annotations", truth) == 0
    assert {row["image_id"] for row in read(out / "results.json")} == {70, 71, 72}
    assert read(out / "coco_metrics.json")["AP"] == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "= 1.000" in printed
    assert f"Why it errs: {out / 'report.html'}" in printed
    # At the best threshold all left halves are found, and the dark images' right halves missed.
    errors = read(out / "errors.json")
    assert (errors["images"], errors["ap50"]) == (3, pytest.approx(1))
    Image.new("RGB", (33, 33)).save(files[0])
    assert detect(model, photos, "--out", out, "--annotations", truth) == 1
    printed = capsys.readouterr().out
    assert "3 files with faults:" in printed
    assert "0.png: the image is 33x33 pixels, but the annotations declare 60x40" in printed
    assert f"{photos / '3.png'}: not in {truth}" in printed
    assert {row["image_id"] for row in read(out / "results.json")} == {71, 72}


@pytest.mark.parametrize(
    ("names", "categories", "message"),
    [
        (["other.png"], {1: "left"}, "describes none of the 5 images"),
        (["0.png"], {1: "cat"}, "no category has the id and the name"),
    ],
)
def test_detect__annotations_of_something_else__refused(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    names: list[str], categories: dict[int, str], message: str,
) -> None:  # fmt: skip
    truth = annotate(tmp_path / "gt.json", names, categories)
    with pytest.raises(SystemExit, match="2"):
        detect(model, photos, "--out", tmp_path / "out", "--annotations", truth)
    assert message in capsys.readouterr().err


def files_done(progress: Path) -> int:
    if not progress.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{progress}?mode=rw", uri=True)) as connection:
        try:
            return connection.execute("SELECT count(*) FROM complete").fetchone()[0]
        except sqlite3.Error:  # not made yet, or being written
            return 0


def test_detect__killed_in_the_middle__goes_on_and_ends_as_if_nothing_had_been(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(5, 40):
        Image.new("RGB", (20, 20), (6 * index,) * 3).save(photos / f"{index}.png")
    out = tmp_path / "out"
    words = ["detect", str(photos), "--out", str(out), "--model", str(model), "--batch-size", "2"]
    script = (
        "import time\nimport numpy as np\n"
        "from mobilevision.apps.inference.runtime import ModelMetadata\n"
        "from mobilevision.apps.inference.detection import Detector\n"
        f"{inspect.getsource(BrightFinder)}\n"
        "BrightFinder.pause_s = 0.05\n"
        "Detector.load = lambda *_: Detector(BrightFinder())\n"
        f"from mobilevision.apps.main import main\nmain({words!r})\n"
    )
    progress = out / "progress.sqlite"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if files_done(progress) > 6:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still at work"
    done = files_done(progress)
    assert 6 <= done < 40
    assert not (out / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "pictures").glob("*.jpg")}
    assert detect(model, photos, "--out", out) == 0
    assert f"{done} files are done already" in capsys.readouterr().err
    again = [path for path, changed in before.items() if path.stat().st_mtime_ns != changed]
    assert len(before) - len(again) >= done, "what the journal has is not drawn again"
    whole = tmp_path / "whole"
    detect(model, photos, "--out", whole)
    assert read(out / "results.json") == read(whole / "results.json")
    assert len(list((out / "pictures").iterdir())) == 40


@pytest.mark.skipif(os.name != "posix", reason="no SIGINT for a single process here")
def test_detect__stream__ctrl_c_ends_it_and_everything_is_whole(
    model: Path, server: tuple[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["detect", f"{server[0]}/live", "--out", str(out), "--model", str(model)]
    script = (
        "import time\nimport numpy as np\n"
        "from mobilevision.apps.inference.runtime import ModelMetadata\n"
        "from mobilevision.apps.inference.detection import Detector\n"
        f"{inspect.getsource(BrightFinder)}\n"
        "BrightFinder.pause_s = 0.05\n"
        "Detector.load = lambda *_: Detector(BrightFinder())\n"
        f"from mobilevision.apps.main import main\nraise SystemExit(main({words!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.stat().st_size for path in (out / "videos").glob(".live.*.json")):
            break
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    assert "ending the stream; Ctrl-C again aborts" in complained
    assert re.search(r"live: [\d,]+ frames in [\d.]+ s, [\d.]+ a second; [1-9]\d* left", complained)
    assert "1 video of" in said
    assert sorted(path.name for path in (out / "videos").iterdir()) == ["live.json", "live.mp4"]
    rows = read(out / "videos" / "live.json")
    frames = [row["image_id"] for row in rows[::2]]
    assert frames == sorted(set(frames))
    assert frames[-1] > len(frames), "frames were left out"
    (last,) = {row["time_s"] for row in rows[-2:]}
    film = Video(out / "videos" / "live.mp4")
    assert film.declared_frames / film.fps == pytest.approx(last, abs=1)


def test_detect__image_at_an_address__as_a_file(
    model: Path, photos: Path, server: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = server
    (folder / "4.png").write_bytes((photos / "4.png").read_bytes())
    out = tmp_path / "out"
    assert detect(model, f"{url}/4.png", photos / "4.png", "--out", out) == 0
    rows = read(out / "results.json")
    assert [row["bbox"] for row in rows[:2]] == [row["bbox"] for row in rows[2:]]
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["4.jpg", "4.png.jpg"]


def test_detect__two_addresses_of_one_name__have_ids_of_their_own(
    model: Path, photos: Path, server: tuple[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    url, folder = server
    (folder / "4.png").write_bytes((photos / "4.png").read_bytes())
    out = tmp_path / "out"
    words = [f"{url}/4.png", f"{url}/4.png".replace("127.0.0.1", "localhost")]
    assert detect(model, *words, *words, "--out", out) == 0
    assert [row["id"] for row in read(out / "results_images.json")["images"]] == [1, 2]
    truth = annotate(tmp_path / "gt.json", [f"{number}.png" for number in range(5)], {1: "left"})
    detect(model, words[0], photos / "4.png", "--out", out, "--annotations", truth)
    assert "4.png: not in" in capsys.readouterr().out
    assert {row["image_id"] for row in read(out / "results.json")} == {74}
    with pytest.raises(SystemExit, match="2"):
        detect(model, words[0], "--out", out, "--annotations", truth)
    assert "no image file among the inputs" in capsys.readouterr().err


# --- the real thing


@pytest.mark.real_data
def test_detect__coco_images__equal_to_the_evaluation(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The public detector by the Lightning evaluation and by the command: the same boxes."""
    content = read(real_data / "coco/annotations/instances_val2017.json")
    content["images"] = sorted(content["images"], key=lambda image: image["id"])[:24]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
    names = {number: COCO_CATEGORIES.get(number, f"unused {number}") for number in range(1, 91)}
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    truth = tmp_path / "some.json"
    truth.write_text(json.dumps(content))
    network = load_tensorflow_ssd(
        real_data / "weights/ssd_mobilenet_v1_0.75_coco_300.npz", width_mult=0.75
    )
    images = real_data / "coco" / "val2017"
    data = DetectionDataModule(tmp_path, test=Split(str(truth), str(images)),
                          batch_size=8, num_workers=0)  # fmt: skip
    run = Trainer(default_root_dir=tmp_path / "run", accelerator="cpu", logger=False,
                  enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    (expected,) = run.test(DetectionTask(network, names), data, verbose=False)
    detector = Detector.from_network(network, names, device="cpu")
    monkeypatch.setattr(Detector, "load", lambda *_: detector)
    (tmp_path / "model.ckpt").touch()
    out = tmp_path / "out"
    files = [images / image["file_name"] for image in content["images"]]
    assert detect(tmp_path / "model.ckpt", *files, "--out", out, "--annotations", truth) == 0
    numbers = read(out / "coco_metrics.json")
    assert {key: numbers[key.removeprefix("test/")] for key in expected if "loss" not in key} == (
        pytest.approx(
            {key: value for key, value in expected.items() if "loss" not in key}, abs=1e-4
        )
    )
    ours, theirs = read(out / "results.json"), read(tmp_path / "run" / "results.json")
    assert len(ours) == len(theirs) > 24 * 20
    order = lambda row: (row["image_id"], row["category_id"], -round(row["score"], 4), row["bbox"])  # noqa: E731
    for own, other in zip(sorted(ours, key=order), sorted(theirs, key=order), strict=True):
        assert own["category_id"] == other["category_id"]
        np.testing.assert_allclose(own["bbox"], other["bbox"], atol=0.02)
        assert own["score"] == pytest.approx(other["score"], abs=1e-5)
    capsys.readouterr()
