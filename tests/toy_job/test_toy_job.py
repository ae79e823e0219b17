"""A new job is four files in heads, one in datasets, one in inference, a YAML and a table row.

The files beside this one are that job; ``docs/extending.md`` walks through them.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.batch.predictions import predict_files
from mobilevision.apps.inference import jobs
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError
from mobilevision.heads.checkpoint import CheckpointError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brightness") / "data"
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 12)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            level = 255 * (number + 0.5) / count
            pixels = rng.normal(level, 20, (40, 50, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number:02d}.jpg")
    return root


@pytest.fixture(scope="module")
def checkpoint(photos: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE.parent))
        patch.chdir(photos.parent)
        words = ["-c", str(HERE / "brightness.yaml"), "--data.root", str(photos)]
        assert main(["fit", *words]) == 0
    (path,) = photos.parent.glob("runs/brightness/version_0/checkpoints/last.ckpt")
    return path


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.syspath_prepend(str(HERE.parent))
    from toy_job.inference.brightness import BrightnessMeter

    monkeypatch.setattr(jobs, "PREDICTORS", (*jobs.PREDICTORS, BrightnessMeter))
    return BrightnessMeter


def true_brightness(path: Path) -> float:
    return float(np.asarray(Image.open(path)).mean() / 255)


def test_job__trains_and_is_measured(checkpoint: Path, photos: Path) -> None:
    run = checkpoint.parents[1]
    measured = json.loads((run / "brightness_metrics.json").read_text())
    assert measured["images"] == 12
    assert measured["mean_absolute_error"] < 0.1  # always guessing the mean: 0.25
    guess = np.mean([abs(true_brightness(path) - 0.5) for path in photos.glob("val/*.jpg")])
    assert measured["mean_absolute_error"] < guess / 2


def test_job__tests_a_checkpoint(
    checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.syspath_prepend(str(HERE.parent))
    monkeypatch.chdir(photos.parent)
    words = ["-c", str(HERE / "brightness.yaml"), "--data.root", str(photos)]
    assert main(["test", *words, "--ckpt_path", str(checkpoint)]) == 0
    assert "12 images, mean absolute error 0.0" in capsys.readouterr().out


def test_job__predicts_from_python(meter: type, checkpoint: Path, photos: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trust=\['toy_job'\]"):
        meter.load(checkpoint, "cpu")
    load = meter.load(checkpoint, "cpu", trust=["toy_job"])
    files = sorted(photos.glob("val/*.jpg"))
    found = load(files)
    np.testing.assert_allclose(found, [true_brightness(path) for path in files], atol=0.2)
    assert load(files[3]) == pytest.approx(found[3], abs=1e-5)
    with pytest.raises(DataError, match="batch_size=0"):
        load(files, batch_size=0)


def test_job__runs_over_files(meter: type, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "val" / "broken.jpg").write_bytes(b"no image")
    try:
        loaded = meter.load(checkpoint, "cpu", trust=["toy_job"])
        counts = predict_files(loaded, checkpoint, [str(photos / "val")], tmp_path / "out.csv")
    finally:
        (photos / "val" / "broken.jpg").unlink()
    assert (counts.files, counts.done, counts.faults) == (13, 12, 1)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{number:02d}.jpg" for number in range(12)]
    brightness = [float(row["brightness"]) for row in rows]
    np.testing.assert_allclose(brightness, loaded(sorted(photos.glob("val/*.jpg"))), atol=1e-4)


def test_job__is_exported(meter: type, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "brightness.onnx"
    words = ["--ckpt", str(checkpoint), "--format", "onnx", "--out", str(out)]
    assert main(["export", *words, "--trust", "toy_job"]) == 0
    files = sorted(photos.glob("val/*.jpg"))
    expected = meter.load(checkpoint, "cpu", trust=["toy_job"])(files)
    np.testing.assert_allclose(meter.load(out, "cpu")(files), expected, atol=1e-3)
    with pytest.raises(DataError, match=r"is a model for brightness, not for classification.*Br"):
        jobs.Classifier.load(out)
