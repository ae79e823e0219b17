"""The directory of a run, ``<root>/version_N``, with its checkpoints and logs, and resuming."""

import ctypes
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ...datasets.errors import DataError
from ...heads.checkpoint import read_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are written atomically and read without running any code.

    A checkpoint is written beside its target, flushed to disk and then renamed, so a process that
    is killed while writing leaves the previous checkpoint intact. Reading unpickles only tensors
    and plain containers, and refuses classes that are not trusted.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path`` atomically."""
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: Any = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data, even if the caller asks for more.

        Raises:
            CheckpointError: As for ``read_checkpoint``.
        """
        return read_checkpoint(path, map_location)


def run_loggers(run: Path, given: Logger | Sequence[Logger] | bool | None) -> list[Logger]:
    """Return the loggers of a run, of which the first decides on its directory.

    Args:
        run: The run's directory, ``<root>/version_N``.
        given: The trainer's option: loggers made by ``make_logger``, False for metrics.csv alone,
            None or True for TensorBoard's files beside it.
    """
    chosen = (
        [given] if isinstance(given, Logger) else list(given or ()) if given is not True else []
    )
    if given in (None, True):
        chosen = [make_logger(run, TensorBoardLogger, save_dir=run.parent)]
    first = [each for each in chosen if isinstance(each, CSVLogger) and Path(each.log_dir) == run]
    first = first or [make_logger(run, CSVLogger, save_dir=run.parent)]
    return [*first[:1], *(each for each in chosen if each not in first)]


def make_logger(run: Path, made: type[Logger], **options: Any) -> Logger:
    """Make a logger that writes into the run's directory unless its options name another place.

    Runs of MLflow share a database in the folder above.

    Raises:
        DataError: The package of the logger is not installed.
    """
    root = run.parent
    if issubclass(made, CSVLogger | TensorBoardLogger) and Path(options["save_dir"]) == root:
        options |= {"name": "", "version": int(run.name.removeprefix("version_"))}
    elif issubclass(made, WandbLogger) and options.get("save_dir", ".") == ".":
        options |= {"save_dir": run, "name": options.get("name") or f"{root.name}/{run.name}"}
    elif issubclass(made, MLFlowLogger) and not options.get("tracking_uri"):
        root.mkdir(parents=True, exist_ok=True)
        options["tracking_uri"] = f"sqlite:///{root / 'mlflow.db'}"
        options["artifact_location"] = (
            options.get("artifact_location") or (root / "mlruns").resolve().as_uri()
        )
        options["run_name"] = options.get("run_name") or f"{root.name}/{run.name}"
    try:
        return made(**options)
    except ModuleNotFoundError as error:  # Lightning's message says what to install
        raise DataError(f"{made.__name__}: {error}") from error


def last_version(root: Path) -> Path | None:
    """Return the ``<root>/version_N`` with the highest N, None if there is none."""
    found = [path for path in root.glob("version_*") if path.name[8:].isdecimal()]
    return max(found, key=lambda path: int(path.name[8:]), default=None)


def next_version(root: Path) -> int:
    """Return one more than the highest N of ``<root>/version_N``."""
    last = last_version(root)
    return 0 if last is None else int(last.name[8:]) + 1


def last_checkpoint(root: Path) -> Path:
    """Return the newest ``last.ckpt`` of all runs under ``root``; a DataError if there is none."""
    found = list(root.glob("version_*/checkpoints/last.ckpt"))
    if not found:
        raise DataError(
            f"--ckpt_path=last: no last.ckpt under {root}. Train first, or give the path of a "
            "checkpoint."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


_RESET = "--reset_optimizer=true"
_WEIGHTS = ("state_dict", "hyper_parameters", "mobilevision", "pytorch-lightning_version")
_PROGRESS = ("params", "lr")  # of a parameter group; `initial_lr` is what a schedule starts from


class ResumableTrainer(Trainer):
    """Lightning's trainer, with warnings about options that a resumed training ignores."""

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
            train_dataloaders: Training batches, instead of a data module.
            val_dataloaders: Validation batches.
            datamodule: The data.
            ckpt_path: Checkpoint of a training to resume, or "last". Its optimizer and its schedule
                continue with their original options.
            weights_only: Read only plain data; the command line always does.
            reset_optimizer: Take only the weights of ``ckpt_path``, the averaged ones if it has
                both; optimizer, schedule and epochs start again with the options of this run.

        Raises:
            DataError: ``reset_optimizer`` without a checkpoint, or the checkpoint has another kind
                of optimizer or schedule than the options.
        """
        if reset_optimizer and ckpt_path is None:
            raise DataError(f"{_RESET} takes the weights of a checkpoint: name it with --ckpt_path")
        files = self.strategy.checkpoint_io
        resumed = _ResumedFiles(files, ckpt_path is None, reset_optimizer)
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
    """Checkpoint files that remember what is resumed, or reduce it to the weights.

    What is read later is a search that returns to where it began.
    """

    def __init__(self, files: CheckpointIO, begun: bool, reset: bool) -> None:
        self.files = files
        self.begun = begun
        self.reset = reset
        self.content: dict[str, Any] | None = None
        """The resumed checkpoint; None after a reset, and before one is read."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.files.save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        self.files.remove_checkpoint(path)

    def load_checkpoint(self, path: Any, *options: Any, **named: Any) -> dict[str, Any]:
        content = self.files.load_checkpoint(path, *options, **named)
        if self.begun:
            return content
        self.begun = True
        if self.reset:
            rank_zero_info(f"Weights from {path}; optimizer, schedule and epochs start again")
            kept = {key: content[key] for key in _WEIGHTS if key in content}
            # Callbacks are notified even without a state, so that averages start at the weights.
            empty = {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}}
            return kept | empty | {"epoch": 0, "global_step": 0}
        if "optimizer_states" not in content:
            raise DataError(
                f"{path}: holds weights alone, and no training to resume. Add {_RESET} to train "
                "from them"
            )
        self.content = content
        return content


class _Comparison(Callback):
    """A callback that compares the options of this run with those of the resumed checkpoint."""

    def __init__(self, files: _ResumedFiles) -> None:
        self.files = files

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content, self.files.content = self.files.content, None
        if content is None:
            return
        _require_same_kinds(trainer, pl_module, content)
        kinds = (_optimizer_differences, _schedule_differences, _data_differences)
        ignored = [text for differences in kinds for text in differences(trainer, content)]
        if ignored:
            rank_zero_warn(
                "The checkpoint's optimizer and schedule continue with their own options, and "
                f"these options of this run do not apply: {'; '.join(ignored)}. With {_RESET} they "
                "apply: only the weights are taken, and optimizer, schedule and epochs start again."
            )


def _require_same_kinds(trainer: Trainer, module: LightningModule, content: dict) -> None:
    """Raise a DataError if the checkpoint has another optimizer, schedule or parameter groups.

    Torch would fail with an unclear message, or misinterpret the state.
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
    """Describe differing options of the optimizers, each for the first group that differs."""
    for optimizer, state in zip(trainer.optimizers, content["optimizer_states"], strict=False):
        named: set[str] = set()
        for new, old in zip(optimizer.param_groups, state["param_groups"], strict=True):
            scheduled = "initial_lr" in new and "initial_lr" in old
            for key in new.keys() & old.keys() - set(_PROGRESS if scheduled else _PROGRESS[:1]):
                name = "lr" if key == "initial_lr" else key
                if _plain(new[key]) != _plain(old[key]) and name not in named:
                    named.add(name)
                    yield f"{name} {_plain(new[key])} (the checkpoint's is {_plain(old[key])})"


def _schedule_differences(trainer: Trainer, content: dict) -> Iterator[str]:
    """Describe differing options of the schedules: constructor arguments that are in the state."""
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
    """Describe another length of an epoch, due to batch size, dataset or number of processes."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    old = content.get(type(data).__qualname__) or {}
    before, now = old.get("batches_per_epoch"), trainer.num_training_batches
    if before and 0 < now < float("inf") and before != now:
        yield (
            f"{now} batches in an epoch (the checkpoint's were {before}), so that epochs are "
            "counted from another place"
        )


def _plain(value: Any) -> Any:
    """Make tensors and lists comparable with numbers and tuples."""
    if hasattr(value, "item"):
        return value.item()
    return tuple(value) if isinstance(value, list) else value


# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 256 << 20}


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks instead of returning them to the kernel.

    By default, each large tensor is mapped again and its pages are zeroed by the kernel in every
    step. On two CPU cores, a training step of SSD-300 took 0.95 s instead of 1.09 s in bfloat16 and
    1.23 s instead of 1.61 s in float32 (batch 16, channels_last). Other C libraries are left alone.

    Returns:
        Whether all settings were taken.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _SETTINGS.items())
