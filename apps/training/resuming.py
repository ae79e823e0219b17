"""Resuming a training: what the checkpoint brings, what the options say, or the weights alone."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ...datasets.errors import DataError

_RESET = "--reset_optimizer=true"
_WEIGHTS = ("state_dict", "hyper_parameters", "mobilevision", "pytorch-lightning_version")
_PROGRESS = ("params", "lr")  # of a parameter group; `initial_lr` is what a schedule starts from


class ResumableTrainer(Trainer):
    """Lightning's trainer, which says which options a resumed training does not follow."""

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
        reset_optimizer: bool = False,
    ) -> None:
        """Runs the full optimization routine.

        Args:
            model: The task.
            train_dataloaders: Batches to train on, in place of a data module.
            val_dataloaders: Batches to validate on.
            datamodule: The data.
            ckpt_path: Checkpoint of a training to go on with, or "last". Its optimizer and its
                schedule go on, too, with the options that they were made with.
            weights_only: Read data only; the command line insists on it.
            reset_optimizer: Take the weights of ``ckpt_path`` alone, the averaged ones where it has
                both: optimizer, schedule and epochs begin anew, with the options of this run.

        Raises:
            DataError: ``reset_optimizer`` without a checkpoint, or the optimizer or the schedule
                of the checkpoint is of another kind than that of the options.
        """
        if reset_optimizer and ckpt_path is None:
            raise DataError(f"{_RESET} takes the weights of a checkpoint: name it with --ckpt_path")
        files = self.strategy.checkpoint_io
        resumed = _ResumedFiles(files, reset_optimizer)
        comparison = _Comparison(resumed)
        self.strategy.checkpoint_io = resumed
        self.callbacks.append(comparison)  # type: ignore[attr-defined]
        try:
            super().fit(
                model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only
            )
        finally:
            self.callbacks.remove(comparison)  # type: ignore[attr-defined]
            self.strategy.checkpoint_io = files


class _ResumedFiles(CheckpointIO):
    """Checkpoints of which the one that is read is remembered, or loses all but its weights."""

    def __init__(self, files: CheckpointIO, reset: bool) -> None:
        self.files = files
        self.reset = reset
        self.content: dict[str, Any] | None = None
        """What was resumed; None after a reset, and before anything was read."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.files.save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        self.files.remove_checkpoint(path)

    def load_checkpoint(self, path: Any, *options: Any, **named: Any) -> dict[str, Any]:
        content = self.files.load_checkpoint(path, *options, **named)
        if self.reset:
            rank_zero_info(f"Weights from {path}; optimizer, schedule and epochs begin anew")
            kept = {key: content[key] for key in _WEIGHTS if key in content}
            # Callbacks without a state are still told, so that averages start from the weights.
            empty = {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}}
            return kept | empty | {"epoch": 0, "global_step": 0}
        if "optimizer_states" not in content:
            raise DataError(
                f"{path}: holds weights alone, and no training to go on with. Add {_RESET} to "
                "train from them"
            )
        self.content = content
        return content


class _Comparison(Callback):
    """Compares what the options made with what a checkpoint is about to put in its place."""

    def __init__(self, files: _ResumedFiles) -> None:
        self.files = files

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content, self.files.content = self.files.content, None
        if content is None:
            return
        _require_same_kinds(trainer, pl_module, content)
        ignored = [
            *_optimizer_differences(trainer, content),
            *_schedule_differences(trainer, content),
            *_data_differences(trainer, content),
        ]
        if ignored:
            rank_zero_warn(
                "The checkpoint's optimizer and schedule go on as they were begun, and these "
                f"options of this run do not apply: {'; '.join(ignored)}. With {_RESET} they "
                "apply: weights alone are taken, and optimizer, schedule and epochs begin anew."
            )


def _require_same_kinds(trainer: Trainer, module: LightningModule, content: dict) -> None:
    """Refuse a state that torch would refuse in its own words, or take for what it is not.

    Raises:
        DataError: The checkpoint is of another optimizer or schedule, or groups parameters
            differently.
    """
    stored = content.get("hyper_parameters") or {}
    for name in ("optimizer", "lr_scheduler"):
        old, new = (_class_path(values.get(name)) for values in (stored, module.hparams))
        if old != new and name in stored:
            raise DataError(
                f"--ckpt_path: the checkpoint was trained with {name} {old or 'null'}, and this "
                f"run has {new or 'null'}. Give it the same, or add {_RESET} to take the weights "
                "alone"
            )
    for optimizer, state in zip(trainer.optimizers, content["optimizer_states"], strict=False):
        sizes = [
            [len(group["params"]) for group in groups]
            for groups in (state["param_groups"], optimizer.param_groups)
        ]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"--ckpt_path: the checkpoint's optimizer has groups of {sizes[0]} parameters, and "
                f"this run's has {sizes[1]}: another part of the network is trained or decayed. "
                f"Give it the same options, or add {_RESET} to take the weights alone"
            )


def _class_path(value: Any) -> str | None:
    return value.get("class_path") if isinstance(value, dict) else None


def _optimizer_differences(trainer: Trainer, content: dict) -> Iterator[str]:
    """Options of the optimizers; of each name the first group that differs."""
    for optimizer, state in zip(trainer.optimizers, content["optimizer_states"], strict=False):
        told: set[str] = set()
        for new, old in zip(optimizer.param_groups, state["param_groups"], strict=True):
            scheduled = "initial_lr" in new and "initial_lr" in old
            for key in new.keys() & old.keys() - set(_PROGRESS if scheduled else _PROGRESS[:1]):
                name = "lr" if key == "initial_lr" else key
                if _plain(new[key]) != _plain(old[key]) and name not in told:
                    told.add(name)
                    yield f"{name} {_plain(new[key])} (the checkpoint's is {_plain(old[key])})"


def _schedule_differences(trainer: Trainer, content: dict) -> Iterator[str]:
    """Options of the schedules: what their constructors take and their states bring back."""
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    for schedule, old in zip(schedules, content["lr_schedulers"], strict=False):
        new = schedule.state_dict()
        for name in inspect.signature(type(schedule)).parameters:
            differ = name in new and name in old and _plain(new[name]) != _plain(old[name])
            if differ and name != "last_epoch":
                yield (
                    f"{name} {_plain(new[name])} of the schedule (the checkpoint's is "
                    f"{_plain(old[name])})"
                )


def _data_differences(trainer: Trainer, content: dict) -> Iterator[str]:
    """The length of an epoch, which another batch size, data set or number of processes changes."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    old = content.get(type(data).__qualname__) or {}
    before, now = old.get("batches_per_epoch"), trainer.num_training_batches
    if before and 0 < now < float("inf") and before != now:
        yield (
            f"{now} batches in an epoch (the checkpoint's were {before}), so that epochs are "
            "counted from another place"
        )


def _plain(value: Any) -> Any:
    """A number that may be a tensor, or a pair that may be a list, as what can be compared."""
    if hasattr(value, "item"):
        return value.item()
    return tuple(value) if isinstance(value, list) else value
