"""``mobilevision detect --track`` and ``--tiles``, on drawn videos and images."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.batch.videos import mp4_writer
from mobilevision.apps.inference.detection import Detector
from mobilevision.apps.inference.runtime import ModelMetadata
from mobilevision.apps.main import main

SIDE = 64


class BlobFinder:
    """Finds white blobs in images of 64 px; a blob of one row or column is lost in the scaling.

    As with other detectors, what the border cuts off has a lower score.
    """

    metadata = ModelMetadata("detection", (SIDE, SIDE), {1: "blob"}, {})

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        boxes = np.zeros((len(images), 20, 4), np.float32)
        labels, scores = np.full((len(images), 20), -1), np.zeros((len(images), 20), np.float32)
        for row, image in enumerate(images):
            white = (image.min(axis=2) > 127).astype(np.uint8)
            found = cv2.connectedComponentsWithStats(white)[2][1:]
            for column, (x, y, width, height, area) in enumerate(found.tolist()):
                boxes[row, column] = x, y, x + width, y + height
                cut = min(x, y) == 0 or max(x + width, y + height) == SIDE
                labels[row, column] = 0
                scores[row, column] = 0.9 - 0.001 * column - 0.1 / area - 0.3 * cut
        return {"boxes": boxes, "scores": scores, "labels": labels}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Detector, "load", lambda *_: Detector(BlobFinder()))
    path = tmp_path / "model.ckpt"
    path.write_text("1")
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two blobs of 12 px that pass each other in 20 frames, one hidden in frames 8 and 9."""
    path = tmp_path / "clip.mp4"
    with mp4_writer(path, 10.0) as writer:
        for number in range(20):
            frame = np.zeros((SIDE, SIDE, 3), np.uint8)
            x = 2 + 2 * number
            frame[8:20, x : x + 12] = 255
            if number not in (8, 9):
                frame[40:52, 50 - x : 62 - x] = 255
            writer.write(frame)
    return path


def detect(model: Path, *words: object) -> int:
    return main(["detect", *map(str, words), "--model", str(model)])


def test_detect__track__two_objects_keep_their_numbers(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trackers")
    out = tmp_path / "out"
    assert detect(model, clip, "--out", out, "--track") == 0
    assert "blob 2\n" in capsys.readouterr().out, "each track is one object"
    rows = json.loads((out / "videos" / "clip.json").read_bytes())
    upper = [row["track_id"] for row in rows if row["bbox"][1] < 30]
    lower = [row["track_id"] for row in rows if row["bbox"][1] >= 30]
    assert (len(upper), len(lower)) == (20, 18)
    assert upper[0] is None
    assert lower[0] is None
    assert set(upper[1:]) == {upper[-1]}
    assert set(lower[1:]) == {lower[-1]}
    assert upper[-1] != lower[-1]
    film = cv2.VideoCapture(str(out / "videos" / "clip.mp4"))
    frames = [film.read()[1] for _ in range(20)]
    colored = [int((np.ptp(frame.astype(int), axis=2) > 60).sum()) for frame in frames]
    assert colored[0] < 20, "an object without a number is not drawn"
    assert min(colored[1:]) > 100


def test_detect__without_track__no_numbers(model: Path, clip: Path, tmp_path: Path) -> None:
    assert detect(model, clip, "--out", tmp_path / "out", "--no-pictures") == 0
    rows = json.loads((tmp_path / "out" / "videos" / "clip.json").read_bytes())
    assert len(rows) == 38
    assert "track_id" not in rows[0]


def test_detect__tiles__small_objects_are_found_once_where_they_are(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [(10, 20), (52, 52), (300, 411), (470, 30)]
    pixels = np.zeros((480, 512, 3), np.uint8)
    for x, y in boxes:
        pixels[y : y + 4, x : x + 4] = 255
    pixels[150:350, 100:400] = 255  # larger than a tile
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    whole, tiled = tmp_path / "whole", tmp_path / "tiled"
    assert detect(model, tmp_path / "scene.png", "--out", whole) == 0
    assert detect(model, tmp_path / "scene.png", "--out", tiled, "--tiles") == 0
    assert len(json.loads((whole / "results.json").read_bytes())) == 1
    found = json.loads((tiled / "results.json").read_bytes())
    small = sorted(tuple(row["bbox"]) for row in found if row["bbox"][2] < 10)
    assert small == sorted((x, y, 4.0, 4.0) for x, y in boxes)
    large = max(found, key=lambda row: row["bbox"][2])
    np.testing.assert_allclose(large["bbox"], [100, 150, 300, 200], atol=9)
    # A tile that holds the image changes nothing.
    assert detect(model, tmp_path / "scene.png", "--out", tmp_path / "one", "--tiles=512x480") == 0
    one = json.loads((tmp_path / "one" / "results.json").read_bytes())
    assert one == json.loads((whole / "results.json").read_bytes())
    Image.new("RGB", (200, 100)).save(tmp_path / "dark.png")
    assert detect(model, tmp_path / "dark.png", "--out", tmp_path / "no", "--tiles") == 0
    assert json.loads((tmp_path / "no" / "results.json").read_bytes()) == []
    capsys.readouterr()
    with pytest.raises(SystemExit):
        detect(model, tmp_path / "scene.png", "--out", tiled, "--tiles=8")
    assert "tiles of 8x8 pixels: a side has at least 32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        detect(model, tmp_path / "scene.png", "--out", tiled, "--tiles=wide")
    assert "--tiles=wide: give width and height, such as 640x480" in capsys.readouterr().err


class DoubtfulFinder(BlobFinder):
    """Sees, with a low score, one more blob that fills whatever it looks at."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        found = super().__call__(images)
        found["boxes"][:, -1], found["labels"][:, -1], found["scores"][:, -1] = SIDE, 0, 0.05
        found["boxes"][:, -1, :2] = 0
        return found


def test_detect__tiles__doubtful_boxes_do_not_swallow_objects(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_: Detector(DoubtfulFinder()))
    pixels = np.zeros((130, 150, 3), np.uint8)
    for x, y in ((10, 10), (80, 20), (60, 90)):
        pixels[y : y + 8, x : x + 8] = 255
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    assert detect(model, tmp_path / "scene.png", "--out", tmp_path / "out", "--tiles") == 0
    found = json.loads((tmp_path / "out" / "results.json").read_bytes())
    sure = [row["bbox"] for row in found if row["score"] > 0.5]
    assert sorted(sure) == [[10, 10, 8, 8], [60, 90, 8, 8], [80, 20, 8, 8]]


@pytest.mark.parametrize(
    ("option", "package", "remedy"),
    [
        ("--tiles", "supervision", "pip install supervision"),
        ("--track", "supervision", "pip install supervision"),
        ("--track", "trackers", "pip install --no-deps trackers"),
    ],
)
def test_detect__package_absent__one_line(
    model: Path, clip: Path, tmp_path: Path, option: str, package: str, remedy: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        detect(model, clip, "--out", tmp_path / "out", option)
    printed = capsys.readouterr().err
    assert f"{option} needs the package {package}" in printed
    assert remedy in printed
    assert not (tmp_path / "out" / "videos").exists()
