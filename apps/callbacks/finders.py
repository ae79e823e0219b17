"""Lightning's finders of a learning rate and a batch size, made to fit the tasks of this package.

The command line puts them in place of Lightning's. What they find is used, printed, and written to
``found.yaml`` in the run's directory, a configuration that repeats it (``-c found.yaml``).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure

from ...datasets.files import write_atomically
from .images import log_figure

FOUND_FILE = "found.yaml"
FIGURE_FILE = "lr_finder.png"

_FIRST, _LAST = 10, -1
"""Steps whose loss is considered, as in Lightning: the first are too few for a smooth one."""


@contextmanager
def _searching(trainer: Trainer, task: Any) -> Iterator[None]:
    """Let a search take its steps: no validation, no end of training, no loss that is an error."""
    task.on_fit_start()  # reads teachers; Lightning asks callbacks before the task
    loop, every = trainer.fit_loop, trainer.check_val_every_n_epoch
    epochs, task.searching = loop.max_epochs, True
    trainer.check_val_every_n_epoch, loop.max_epochs = sys.maxsize, sys.maxsize
    try:
        yield
    finally:
        trainer.check_val_every_n_epoch, loop.max_epochs = every, epochs
        task.searching = False


def _record(trainer: Trainer, task: Any, sentence: str, found: dict[str, Any]) -> None:
    """Print what was found and add it to ``found.yaml``."""
    path = task.run_dir / FOUND_FILE
    if trainer.is_global_zero:
        before = yaml.safe_load(path.read_text()) if path.is_file() else {}
        write_atomically(path, yaml.safe_dump(before | found, sort_keys=False).encode())
    rank_zero_info(f"{sentence}; -c {path} repeats it")


class _BeginsTraining(Callback):
    """A finder that leaves resumed trainings alone."""

    _is_resumed = False

    def on_load_checkpoint(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Note whether steps have been taken; a search itself loads what it saved before them."""
        self._is_resumed = checkpoint["global_step"] > 0


class TaskLearningRateFinder(_BeginsTraining, LearningRateFinder):
    """Lightning's finder for a task, whose schedule keeps its shape and gets the new peak.

    The learning rate rises over ``num_training_steps`` steps, which are then undone; the one at
    which the smoothed loss falls fastest from one step to the next is taken (after Smith 2017,
    "Cyclical Learning Rates", Section 3.3). ``lr_finder.png`` shows it. A resumed training keeps
    its own.

    Lightning 2.6 itself takes the steepest place against the learning rate, not its logarithm,
    which is nearly always among the smallest: 1e-5 for the quickstart of classification, where this
    finder has 7e-3, the value of the recipe.
    """

    def lr_find(self, trainer: Trainer, pl_module: Any) -> None:
        """Search, and begin with the learning rate that was found."""
        if self._is_resumed:
            return
        self._update_attr = False  # Lightning would forget the schedule and the next start
        with _searching(trainer, pl_module):
            super().lr_find(trainer, pl_module)
        if self.optimal_lr is None:  # fast_dev_run
            return
        rates, losses = (np.array(self.optimal_lr.results[name]) for name in ("lr", "loss"))
        losses = unbiased(losses)
        best = steepest(losses)
        if best is None:
            rank_zero_warn(
                f"{len(losses)} steps are too few to find a learning rate; that of the "
                "configuration stays"
            )
            return
        rate = float(rates[best])
        pl_module.learning_rate = rate
        trainer.strategy.setup_optimizers(trainer)
        spec: Any = pl_module.hparams.get("optimizer") or {"class_path": "torch.optim.SGD"}
        options = {**(spec.get("init_args") or {}), "lr": rate}
        found = {"class_path": spec["class_path"], "init_args": options}
        path = pl_module.run_dir / FIGURE_FILE
        if trainer.is_global_zero:
            log_figure(trainer, path.stem, _draw(rates, losses, best), path)
        sentence = f"Learning rate {rate:.3g} found ({path})"
        _record(trainer, pl_module, sentence, {"model": {"init_args": {"optimizer": found}}})


class TaskBatchSizeFinder(_BeginsTraining, BatchSizeFinder):
    """Lightning's finder for a data module: at most the training set, with a schedule to match.

    A resumed training keeps the size that was found when it began.
    """

    _found: int | None = None

    def scale_batch_size(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, and go on with the batch size that was found."""
        if trainer.state.fn != TrainerFn.FITTING:
            super().scale_batch_size(trainer, pl_module)
            return
        if self._is_resumed:
            return
        with _searching(trainer, pl_module):
            super().scale_batch_size(trainer, pl_module)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.batch_size = min(data.batch_size, len(data.datasets["train"]))
        self.optimal_batch_size = self._found = data.batch_size
        trainer.strategy.setup_optimizers(trainer)  # the number of steps is another one
        found = {"data": {"init_args": {"batch_size": data.batch_size}}}
        _record(trainer, pl_module, f"Batch size {data.batch_size} found", found)

    def state_dict(self) -> dict[str, Any]:
        """Keep the batch size in checkpoints."""
        return {} if self._found is None else {"batch_size": self._found}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the batch size that was found when a resumed training began."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        state = checkpoint["callbacks"].get(self.state_key)
        if state and trainer.state.fn == TrainerFn.FITTING:
            self._found = trainer.datamodule.batch_size = state["batch_size"]  # type: ignore[attr-defined]


def unbiased(losses: np.ndarray, beta: float = 0.98) -> np.ndarray:
    """Return Lightning's running average of losses (N,) with the right correction of its start.

    Lightning divides by 1 - beta^(n + 1) after n losses in place of 1 - beta^n, so that the average
    begins at half its value and rises (``_LRCallback``, Lightning 2.6).
    """
    count = np.arange(1, len(losses) + 1)
    return losses * (1 - beta ** (count + 1)) / (1 - beta**count)


def steepest(losses: np.ndarray) -> int | None:
    """Return the position where losses (N,) of equal steps fall fastest, None if there is none.

    The first ten and the last are left out, and so are losses that are not finite.
    """
    positions = np.arange(len(losses))[_FIRST:_LAST]
    positions = positions[np.isfinite(losses[positions])]
    if len(positions) < 2:
        return None
    return int(positions[np.gradient(losses[positions]).argmin()])


def _draw(rates: np.ndarray, losses: np.ndarray, best: int) -> Figure:
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses)
    axes.plot(rates[best], losses[best], "o", label=f"learning rate {rates[best]:.3g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


FINDERS = {LearningRateFinder: TaskLearningRateFinder, BatchSizeFinder: TaskBatchSizeFinder}
"""Lightning's finders and what takes their places."""
