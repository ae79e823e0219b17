import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning_utilities.core.imports import RequirementCache

from mobilevision.apps.cli import lightning
from mobilevision.apps.commands.evaluate import evaluate_coco
from mobilevision.heads.detection import DetectionTask

KEYS = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}


def losses(run: Path) -> dict[int, float]:
    """Training loss by step."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {int(row["step"]): float(row["train/loss"]) for row in rows}


def command(recipe: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mobilevision.apps.cli", *arguments, "-c", str(recipe)]


def test_fit__writes_a_whole_run(recipe: Path, tmp_path: Path, capsys) -> None:
    lightning(["fit", "-c", str(recipe)])
    run = tmp_path / "runs" / "version_0"
    printed = capsys.readouterr().out
    assert "Average Precision" in printed
    assert str(run / "coco_metrics.json") in printed
    metrics = json.loads((run / "coco_metrics.json").read_text())
    assert set(metrics) >= KEYS | {"per_class", "images", "dataset"}
    assert metrics["images"] == 5
    assert len(losses(run)) == 6
    assert (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert f"Why it errs: {run / 'report.html'}" in printed
    errors = json.loads((run / "errors.json").read_text())
    assert (errors["dataset"], errors["images"]) == (metrics["dataset"], 5)
    assert errors["ap50"] == pytest.approx(metrics["AP50"])
    assert len(errors["worst_images"]) == 5
    for image in ("curves.png", "pictures/latest.png", "errors/worst_images.png"):
        assert (run / image).read_bytes().startswith(b"\x89PNG"), image


def test_fit__twice__makes_two_versions_and_resumes_from_last(recipe: Path, tmp_path: Path) -> None:
    lightning(["fit", "-c", str(recipe), "--trainer.max_epochs=1"])
    lightning(["fit", "-c", str(recipe), "--ckpt_path=last"])
    runs = tmp_path / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["version_0", "version_1"]
    assert list(losses(runs / "version_0")) == [0, 1, 2]
    assert list(losses(runs / "version_1")) == [3, 4, 5]


def test_configs__merge_and_options_override(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"trainer": {"max_epochs": 1}, "data": {"batch_size": 6}}))
    lightning(
        ["fit", "-c", str(recipe), "-c", str(other), "--trainer.limit_train_batches=1",
         "--data.root", str(yaml.safe_load(recipe.read_text())["data"]["init_args"]["root"])]
    )  # fmt: skip
    config = yaml.safe_load((tmp_path / "runs/version_0/config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 6
    assert len(losses(tmp_path / "runs" / "version_0")) == 1


def test_checkpoint__loads_with_weights_only_and_rebuilds_the_model(
    recipe: Path, tmp_path: Path
) -> None:
    lightning(["fit", "-c", str(recipe), "--trainer.max_epochs=1"])
    path = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    task = DetectionTask.load_from_checkpoint(path, weights_only=True)
    assert task.network.num_classes == len(task.categories) == 8
    for name, value in task.state_dict().items():
        assert torch.equal(value, saved["state_dict"][name]), name


def test_validate_test_predict__agree_with_evaluating_the_results_file(
    recipe: Path, tmp_path: Path, scenes: Path, capsys
) -> None:
    lightning(["fit", "-c", str(recipe), "--trainer.max_epochs=1"])
    for name in ("validate", "test", "predict"):
        lightning([name, "-c", str(recipe), "--ckpt_path=last"])
    runs = tmp_path / "runs"
    validated, tested = (
        json.loads((runs / f"version_{number}" / "coco_metrics.json").read_text())
        for number in (1, 2)
    )
    assert validated == tested
    results = [(runs / f"version_{number}" / "results.json").read_text() for number in (1, 2, 3)]
    assert results[0] == results[1] == results[2]
    errors = [(runs / f"version_{number}" / "errors.json").read_text() for number in (1, 2)]
    assert errors[0] == errors[1]
    assert json.loads(errors[0])["ap50"] == pytest.approx(validated["AP50"])
    assert len(json.loads(results[0])) > 0
    capsys.readouterr()
    evaluate_coco(
        scenes / "annotations/instances_val.json", runs / "version_1/results.json", json=True
    )
    evaluated = json.loads(capsys.readouterr().out)
    assert {key: evaluated[key] for key in KEYS} == {key: validated[key] for key in KEYS}


@pytest.mark.parametrize("config", ["ssd300.yaml", "ssd300_coco2014.yaml"])
def test_fit__without_coco_says_what_to_do(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, config: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        lightning(["fit", "-c", str(repository / "configs" / config)])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "mobilevision data download coco" in message
    assert "configs/quickstart.yaml" in message
    assert "Traceback" not in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["fit", "test"])
def test_help__has_a_usage_that_can_be_read(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        lightning([name, "--help"])
    usage = capsys.readouterr().out.splitlines()[0]
    assert stopped.value.code == 0
    assert usage.startswith(f"usage: lightning {name} -c CONFIG")
    assert len(usage) <= 80


def test_ckpt_path_last__without_a_run_says_so(recipe: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        lightning(["test", "-c", str(recipe), "--ckpt_path=last"])
    assert stopped.value.code == 2
    assert "no last.ckpt" in capsys.readouterr().err


def test_broken_image__stops_training_and_names_the_file(
    recipe: Path, tmp_path: Path, scenes: Path, capsys
) -> None:
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(scenes, root)
    victim = sorted((root / "train").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:400])
    with pytest.raises(SystemExit) as stopped:
        lightning(["fit", "-c", str(recipe), "--data.root", str(root)])
    assert stopped.value.code == 2
    assert victim.name in capsys.readouterr().err


@pytest.mark.slow
def test_fit__resumes_exactly_after_kill_9(recipe: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--trainer.max_epochs=12", "--trainer.check_val_every_n_epoch=4"]
    fit = [*command(recipe, "fit"), *options, "--trainer.default_root_dir"]
    subprocess.run([*fit, str(whole)], check=True, env=environment, capture_output=True)

    checkpoint = killed / "version_0/checkpoints/last.ckpt"
    process = subprocess.Popen([*fit, str(killed)], env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    while not checkpoint.is_file() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert step < 36

    subprocess.run([*fit, str(killed), "--ckpt_path=last"], check=True, env=environment,
                   capture_output=True)  # fmt: skip
    expected = losses(whole / "version_0")
    resumed = losses(killed / "version_1")
    assert resumed == {number: loss for number, loss in expected.items() if number >= step}
    final = [json.loads((path / "coco_metrics.json").read_text())
             for path in (whole / "version_0", killed / "version_1")]  # fmt: skip
    assert final[0] == final[1]


@pytest.mark.slow
def test_two_processes__train_averaged_weights_and_count_every_image_once(
    recipe: Path, tmp_path: Path
) -> None:
    def run_twice(subcommand: str, *words: str) -> None:
        two = ("--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_false")
        subprocess.run(
            [*command(recipe, subcommand), *words, *two],
            check=True, capture_output=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    # Averaged weights are a copy of the task.
    run_twice("fit", "--trainer.max_epochs=1", "--model.freeze=stage:2")
    checkpoint = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    lightning(["validate", "-c", str(recipe), f"--ckpt_path={checkpoint}"])
    run_twice("validate", f"--ckpt_path={checkpoint}", "--data.batch_size=1")
    one, two = (
        json.loads((tmp_path / f"runs/version_{number}/coco_metrics.json").read_text())
        for number in (1, 2)
    )
    assert one["images"] == two["images"] == 5
    assert two["AR100"] > 0
    assert {key: two[key] for key in KEYS} == pytest.approx(
        {key: one[key] for key in KEYS}, abs=1e-3
    )


def test_lightning__advertisement_of_lightning__is_left_out() -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("lightning.pytorch")
    with pytest.raises(SystemExit):
        lightning(["--help"])
    logger.addHandler(handler)
    try:
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    finally:
        logger.removeHandler(handler)
    assert any("GPU available" in line for line in said)
    assert not any("litlogger" in line for line in said)


def test_fit__package_of_a_logger_absent__one_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(
        "lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", RequirementCache("no-w")
    )
    with pytest.raises(SystemExit) as ended:
        lightning(["fit", "-c", str(recipe), "--trainer.logger=WandbLogger"])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: WandbLogger: ")
    assert "pip install" in last
