"""The finders of learning rate and batch size: what they choose, use, write down and resume."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mobilevision.apps.callbacks.finders import steepest, unbiased
from mobilevision.apps.cli import lightning


def test_steepest__a_fall_in_the_middle__found_and_the_ends_left_out() -> None:
    losses = np.r_[np.linspace(9, 5, 10), np.full(10, 5.0), [4.0, 2.0, 1.5], np.full(5, 1.5), 0.0]
    assert steepest(losses) == 20


def test_steepest__not_finite_or_too_few__left_out() -> None:
    losses = np.r_[np.full(14, 3.0), 2.9, 2.9, np.nan, np.inf, 1.0]
    assert steepest(losses) in {13, 14}
    assert steepest(np.full(12, 1.0)) is None


def test_unbiased__constant_losses__are_constant() -> None:
    average, lightnings = 0.0, []
    for step in range(1, 6):  # as `_LRCallback` computes it
        average = 0.98 * average + 0.02 * 3.0
        lightnings.append(average / (1 - 0.98 ** (step + 1)))
    assert lightnings[0] < 1.6
    np.testing.assert_allclose(unbiased(np.array(lightnings)), 3.0)


def steps_of(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {int(row["step"]): float(row["train/loss"]) for row in rows}


def test_fit__both_finders__training_goes_on_with_what_is_found_and_resumes(
    recipe: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    every = {"filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
    checkpoint = {"class_path": "ModelCheckpoint", "init_args": every}
    finders = [
        {"class_path": "LearningRateFinder", "init_args": {"num_training_steps": 14}},
        {"class_path": "BatchSizeFinder", "init_args": {"init_val": 3, "max_trials": 1}},
    ]
    config = tmp_path / "with_finders.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["trainer"] |= {"callbacks": [*reversed(finders), checkpoint], "limit_val_batches": 0}
    config.write_text(yaml.safe_dump(content))

    lightning(["fit", "-c", str(config)])
    run = tmp_path / "runs/version_0"
    found = yaml.safe_load((run / "found.yaml").read_text())
    batch_size = found["data"]["init_args"]["batch_size"]
    rate = found["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert batch_size == 3
    assert 1e-8 < rate < 1
    assert (run / "lr_finder.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(steps_of(run)) == list(range(8))  # two epochs of four batches, no search
    saved = torch.load(run / "checkpoints/step=8.ckpt", weights_only=True)
    group, schedule = saved["optimizer_states"][0]["param_groups"][0], saved["lr_schedulers"][0]
    assert group["initial_lr"] == rate
    assert schedule["base_lrs"] == [rate, rate]
    assert schedule["total_steps"] == 8

    lightning(["fit", "-c", str(config), f"--ckpt_path={run / 'checkpoints/step=3.ckpt'}"])
    resumed = tmp_path / "runs/version_1"
    assert steps_of(resumed) == {step: x for step, x in steps_of(run).items() if step >= 3}
    assert not (resumed / "found.yaml").exists()
    assert any("lr 0.002 (the checkpoint's is" in str(each.message) for each in recwarn)

    lightning(["fit", "-c", str(recipe), "-c", str(run / "found.yaml"), "--trainer.max_steps=1",
               "--trainer.limit_val_batches=0"])  # fmt: skip
    options = yaml.safe_load((tmp_path / "runs/version_2/config.yaml").read_text())
    assert options["data"]["init_args"]["batch_size"] == batch_size
    assert options["model"]["init_args"]["optimizer"]["init_args"]["lr"] == rate


def test_search__loss_that_is_not_finite__ends_it_and_the_training_begins(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilevision.heads.detection import DetectionTask

    def losses(task: Any, output: Any, batch: Any) -> Any:
        parts = usual(task, output, batch)
        rate = task.trainer.optimizers[0].param_groups[0]["lr"]
        return {name: value * float("nan" if rate > 0.1 else 1) for name, value in parts.items()}

    usual = DetectionTask.losses
    monkeypatch.setattr(DetectionTask, "losses", losses)
    finder = {"class_path": "LearningRateFinder", "init_args": {"num_training_steps": 20}}
    content = yaml.safe_load(recipe.read_text())
    content["trainer"] |= {"callbacks": [finder], "limit_val_batches": 0, "max_epochs": 1}
    recipe.write_text(yaml.safe_dump(content))
    lightning(["fit", "-c", str(recipe)])
    run = tmp_path / "runs/version_0"
    found = yaml.safe_load((run / "found.yaml").read_text())
    assert found["model"]["init_args"]["optimizer"]["init_args"]["lr"] < 0.1
    assert all(np.isfinite(list(steps_of(run).values())))
