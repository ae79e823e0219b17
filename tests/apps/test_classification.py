"""The classification job from the command line: fit, test, sweep, distillation, cached logits."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mobilevision.apps import Classifier
from mobilevision.apps.cli import lightning
from mobilevision.apps.main import main
from mobilevision.apps.training import sweep
from mobilevision.apps.training.sweep import changed_settings
from mobilevision.backbone.cost import count_cost
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.synthetic.classification import write_objects
from mobilevision.datasets.vectors import read_vectors
from mobilevision.heads.classification import ClassificationTask
from mobilevision.heads.classification.task import CheckpointTeacher


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects") / "data"
    write_objects(root, train=24, val=9, size_hw=(64, 64), seed=2, progress=False)
    return root


@pytest.fixture
def config(tmp_path: Path, objects: Path) -> Path:
    content = {
        "seed_everything": 7,
        "trainer": {
            "default_root_dir": str(tmp_path / "runs"),
            "accelerator": "cpu",
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"filename": "last", "enable_version_counter": False},
                },
                {"class_path": "mobilevision.apps.callbacks.plots.ConfusionPlot"},
            ],
        },
        "model": {
            "class_path": "mobilevision.heads.classification.ClassificationTask",
            "init_args": {
                "network": {
                    "class_path": "mobilevision.heads.classification.Classifier",
                    "init_args": {
                        "backbone": {
                            "class_path": "mobilevision.backbone.MobileNetV1",
                            "init_args": {"width_mult": 0.25, "out_strides": [32]},
                        },
                    },
                },
            },
        },
        "data": {
            "class_path": "mobilevision.datasets.classification.image_folder.ImageFolderModule",
            "init_args": {
                "root": str(objects),
                "size_hw": [64, 64],
                "batch_size": 8,
                "num_workers": 0,
            },
        },
    }
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def metrics(run: Path) -> dict:
    return json.loads((run / "classification_metrics.json").read_text())


def test_fit_validate_test_predict__agree(config: Path, tmp_path: Path, capsys) -> None:
    lightning(["fit", "-c", str(config)])
    assert "top-1" in capsys.readouterr().out
    for name in ("validate", "test", "predict"):
        lightning([name, "-c", str(config), "--ckpt_path=last"])
    runs = [tmp_path / f"runs/version_{number}" for number in range(4)]
    assert metrics(runs[0]) == metrics(runs[1]) == metrics(runs[2])
    assert metrics(runs[0])["images"] == 9
    predictions = [(run / "predictions.csv").read_text() for run in runs[1:]]
    assert predictions[0] == predictions[1] == predictions[2]
    assert not (runs[3] / "classification_metrics.json").exists()
    for run in runs[:3]:
        with Image.open(run / "confusion.png") as image:
            assert image.format == "PNG"
    task = ClassificationTask.load_from_checkpoint(
        runs[0] / "checkpoints/last.ckpt", weights_only=True
    )
    assert len(task.categories) == 8
    assert task.network.num_classes == 8
    rows = list(csv.DictReader(predictions[0].splitlines()))
    found = Classifier.load(runs[0] / "checkpoints/last.ckpt")([row["file"] for row in rows])
    assert isinstance(found, list)
    assert [result.name for result in found] == [row["predicted"] for row in rows]
    assert [" | ".join(result.names) for result in found] == [row["top5"] for row in rows]
    scores = [float(row["score"]) for row in rows]
    assert [result.score for result in found] == pytest.approx(scores, abs=1e-4)


@pytest.mark.slow
def test_validate__with_two_processes_counts_every_image_once(config: Path, tmp_path: Path) -> None:
    lightning(["fit", "-c", str(config)])
    checkpoint = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    lightning(["validate", "-c", str(config), f"--ckpt_path={checkpoint}"])
    subprocess.run(
        [sys.executable, "-m", "mobilevision.apps.cli", "validate", "-c", str(config),
         f"--ckpt_path={checkpoint}", "--trainer.devices=2", "--trainer.strategy=ddp",
         "--data.batch_size=2"],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    one, two = (metrics(tmp_path / f"runs/version_{number}") for number in (1, 2))
    assert two["images"] == 9
    assert one == two
    rows = (tmp_path / "runs/version_2/predictions.csv").read_text().splitlines()
    assert len(rows) == 10


def test_cache_logits__stopped__goes_on_and_names_what_is_broken(
    config: Path, tmp_path: Path, objects: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    lightning(["fit", "-c", str(config)])
    checkpoint = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    words = ["cache-logits", "-c", str(config), "--teacher", str(checkpoint), "--out"]
    assert main([*words, str(tmp_path / "whole.npz")]) == 0
    seen: list[int] = []
    ask = CheckpointTeacher.__call__

    def interrupted(self: CheckpointTeacher, images: torch.Tensor, paths: tuple) -> torch.Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(images))
        return ask(self, images, paths)

    table = tmp_path / "stopped.npz"
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointTeacher, "__call__", interrupted)
        with pytest.raises(SystemExit):
            main([*words, str(table)])
    assert not table.exists()
    settings = yaml.safe_load(config.read_text())
    broken = sorted((objects / "train").rglob("*.jpg"))[-1]
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    settings["data"]["init_args"]["on_error"] = "skip"
    skipping = tmp_path / "skip.yaml"
    skipping.write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["cache-logits", "-c", str(skipping), *words[3:], str(tmp_path / "broken.npz")])
    told = capsys.readouterr()
    assert str(broken) in told.out
    assert "1 images cannot be read" in told.err
    broken.write_bytes(content)
    assert main([*words, str(table)]) == 0
    assert f"{sum(seen)} files are done already" in capsys.readouterr().err
    first, second = read_vectors(tmp_path / "whole.npz"), read_vectors(table)
    assert first.files.tolist() == second.files.tolist()
    np.testing.assert_allclose(first.vectors, second.vectors, atol=1e-5)


def test_cache_logits__then_learn_from_the_table(
    config: Path, tmp_path: Path, objects: Path, capsys
) -> None:
    lightning(["fit", "-c", str(config)])
    checkpoint = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    table = tmp_path / "logits.npz"
    words = ["cache-logits", "-c", str(config), "--teacher", str(checkpoint), "--out", str(table)]
    assert main(words) == 0
    assert "24 images, 8 logits each" in capsys.readouterr().out
    found = read_vectors(table)
    assert sorted(found.files.tolist())[0] == "train/crescent/000006.jpg"
    task = ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True).eval()
    with Image.open(objects / found.files[0]) as image:
        side = round(64 * (1 - 0.875) / 2)
        crop = image.resize((64, 64), Image.Resampling.BILINEAR,
                              box=(side, side, 64 - side, 64 - side))  # fmt: skip
    pixels = torch.from_numpy(np.array(crop))[None]
    expected = task(pixels.permute(0, 3, 1, 2))
    assert torch.allclose(torch.tensor(found.vectors[0]), expected[0], atol=1e-4)

    student = yaml.safe_load(config.read_text())
    student["model"]["init_args"]["distillation"] = {
        "class_path": "mobilevision.heads.distillation.Distillation",
        "init_args": {
            "label_weight": 0.5,
            "objective": {
                "class_path": "mobilevision.heads.distillation.SoftTargets",
                "init_args": {"temperature": 2.0},
            },
            "teacher": {
                "class_path": "mobilevision.heads.distillation.CachedTeacher",
                "init_args": {"table": str(table), "root": str(objects)},
            },
        },
    }
    path = tmp_path / "student.yaml"
    path.write_text(yaml.safe_dump(student))
    lightning(["fit", "-c", str(path)])
    with (tmp_path / "runs/version_1/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    for row in rows:
        parts = float(row["train/loss_labels"]) + float(row["train/loss_teacher"])
        assert float(row["train/loss"]) == pytest.approx(parts, rel=1e-5)
    loaded = ClassificationTask.load_from_checkpoint(
        tmp_path / "runs/version_1/checkpoints/last.ckpt", weights_only=True
    )
    assert loaded.distillation is not None


def test_distillation__from_a_torchvision_model_in_the_yaml(config: Path, tmp_path: Path) -> None:
    student = yaml.safe_load(config.read_text())
    student["model"]["init_args"]["distillation"] = {
        "class_path": "mobilevision.heads.distillation.Distillation",
        "init_args": {
            "teacher": {
                "class_path": "mobilevision.heads.distillation.ModelTeacher",
                "init_args": {
                    "network": "torchvision.models.squeezenet1_1",
                    "options": {"num_classes": 8},
                    "size_hw": [32, 32],
                },
            },
        },
    }
    path = tmp_path / "student.yaml"
    path.write_text(yaml.safe_dump(student))
    lightning(["fit", "-c", str(path), "--trainer.limit_train_batches=1"])
    with (tmp_path / "runs/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss_teacher")]
    assert len(rows) == 1


@pytest.mark.slow
def test_sweep__ends_in_a_table_and_a_figure_and_skips_what_is_done(
    config: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "sweep"
    words = ["sweep", "-c", str(config), "--width-mults", "0.25,0.3", "--resolutions", "32",
             "--out", str(out), "--fit=--trainer.limit_train_batches=1"]  # fmt: skip
    assert main(words) == 0
    table = capsys.readouterr().out
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "width_mult",
        "resolution",
        "mult_adds",
        "params",
        "top1",
        "top5",
        "run",
    ]
    assert [(row["width_mult"], row["resolution"]) for row in rows] == [
        ("0.25", "32"),
        ("0.3", "32"),
    ]
    for row in rows:
        run = Path(row["run"])
        task = ClassificationTask.load_from_checkpoint(run / "checkpoints/last.ckpt")
        cost = count_cost(task.network, torch.zeros(1, 3, 32, 32))
        assert (int(row["mult_adds"]), int(row["params"])) == (cost.mult_adds, cost.params)
        assert float(row["top1"]) == metrics(run)["top1"]
        assert row["run"] in table
    with Image.open(out / "tradeoff.png") as image:
        assert image.format == "PNG"
    before = sorted(path.name for path in (out / "w0.25_r32").iterdir())
    assert main(words) == 0
    assert sorted(path.name for path in (out / "w0.25_r32").iterdir()) == before


def test_sweep__reports_failures_and_goes_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out, script = tmp_path / "sweep", tmp_path / "training.py"
    script.write_text("raise SystemExit(3)")
    monkeypatch.setattr(sweep, "_PROGRAM", (str(script),))
    words = ["sweep", "-c", str(config), "--width-mults", "0.25", "--resolutions", "32",
             "--out", str(out)]  # fmt: skip
    assert main(words) == 1
    assert "w0.25_r32 failed" in capsys.readouterr().err
    assert not (out / "results.csv").exists()


def test_changed_settings__sets_transforms_too_and_names_what_is_absent(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["data"]["init_args"]["train_transform"] = {
        "class_path": "x.RandomCrop", "init_args": {"size_hw": [64, 64]},
    }  # fmt: skip
    changed = changed_settings(settings, 0.5, 96, config)
    options = changed["data"]["init_args"]
    assert options["size_hw"] == options["train_transform"]["init_args"]["size_hw"] == [96, 96]
    backbone = changed["model"]["init_args"]["network"]["init_args"]["backbone"]
    assert backbone["init_args"]["width_mult"] == 0.5
    assert settings["data"]["init_args"]["size_hw"] == [64, 64], "the original stays"
    del settings["data"]["init_args"]["size_hw"], settings["data"]["init_args"]["train_transform"]
    with pytest.raises(DataError, match="no size_hw is written under data"):
        changed_settings(settings, 0.5, 96, config)


@pytest.mark.parametrize("option", ["--width-mults=x", "--resolutions=0", "--resolutions="])
def test_sweep__numbers_that_are_none(config: Path, tmp_path: Path, option: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "-c", str(config), "--out", str(tmp_path / "s"), option])
    assert stopped.value.code == 2
    assert "numbers" in capsys.readouterr().err
