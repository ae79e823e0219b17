"""Validation, test and prediction: one path for all of them, in every job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ..datasets.files import write_atomically
from .task import ImageTask

PREDICTIONS_FILE = "predictions.csv"

E = TypeVar("E")
R = TypeVar("R")


class EvaluatedTask(ImageTask, Generic[E, R]):
    """A task that collects predictions in an evaluator, measures them, and writes the result.

    A job makes its evaluator, gives it predictions, and makes, logs and formats a result.
    Validation and test log the losses, too. The result goes to ``metrics_file`` in the run's
    directory each time; its table is printed at the end of a command.

    ``E`` is the type of the evaluator, ``R`` that of the result.
    """

    metrics_file: str
    """Name of the file of measures in the run's directory."""
    headline: str
    """The number of ``numbers`` that the progress bar shows."""
    table: Callable[[Any], str]
    """Formats a result as text that ends in a line break."""
    numbers: Callable[[Any], dict[str, float]]
    """Returns the numbers to log of a result, without the stage's name."""
    evaluates_losses = True
    """Whether there are losses in evaluation."""

    _evaluator: E | None = None
    _last_result: R | None = None

    # --- defined by each job

    def make_evaluator(self, dataset: Any) -> E:
        """Return the evaluator of a dataset."""
        raise NotImplementedError

    def collect(self, output: Any, batch: Any) -> Any:
        """Give the predictions of a batch to ``evaluator`` and return them."""
        raise NotImplementedError

    def measure(self, stage: str) -> R | None:
        """Return the measures of what was collected in ``val`` or ``test``; None for too little."""
        raise NotImplementedError

    def write_metrics(self, path: Path, result: R) -> None:
        """Write a result as JSON."""
        write_atomically(path, cast(Any, result).to_json().encode())

    def write_predictions(self) -> None:
        """Write the predictions into the run's directory; called on the first process."""
        self.write_text(PREDICTIONS_FILE, "Predictions", cast(Any, self.evaluator).to_csv())

    def write_text(self, name: str, label: str, content: str) -> None:
        """Write a file into the run's directory and print its path."""
        path = self.run_dir / name
        write_atomically(path, content.encode())
        print(f"{label}: {path}", flush=True)

    # --- Lightning's hooks

    @property
    def evaluator(self) -> E:
        """The evaluator of the evaluation that is running, else a RuntimeError."""
        if self._evaluator is None:
            raise RuntimeError("no evaluation is running")
        return self._evaluator

    @property
    def last_result(self) -> R | None:
        """The result of the newest evaluation; None before the first."""
        return self._last_result

    def on_validation_epoch_start(self) -> None:
        """Start with an empty evaluator."""
        self._start(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        """Start with an empty evaluator."""
        self._start(self.trainer.test_dataloaders)

    def on_predict_epoch_start(self) -> None:
        """Start with an empty evaluator."""
        self._start(self.trainer.predict_dataloaders)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the predictions for a batch."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the predictions for a batch."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ARG002
        """Return the predictions for a batch."""
        return self.collect(self(batch.images), batch)

    def on_validation_epoch_end(self) -> None:
        """Measure and log; while training, the table is printed at the end."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Measure, log and print."""
        self._measure("test")

    def on_predict_epoch_end(self) -> None:
        """Write the predictions."""
        cast(Any, self.evaluator).gather()
        if self.trainer.is_global_zero:
            self.write_predictions()

    def on_fit_end(self) -> None:
        """Print the table of the last validation."""
        if self._last_result is not None:
            self._print_result(self._last_result)

    @property
    def is_fitting(self) -> bool:
        """Whether the evaluation is a part of training."""
        return self.trainer.state.fn == TrainerFn.FITTING

    def _start(self, loader: Any) -> None:
        self._evaluator = self.make_evaluator(loader.dataset)

    def _evaluate(self, stage: str, batch: Any, batch_idx: int) -> Any:
        output = self(batch.images)
        if self.evaluates_losses:
            self.log_losses(stage, self.losses(output, batch), batch, batch_idx)
        return self.collect(output, batch)

    def _measure(self, stage: str) -> None:
        result = self.measure(stage)
        if result is None:
            return
        numbers = self.numbers(result)
        logged: dict[str, float | Tensor] = {f"{stage}/{key}": x for key, x in numbers.items()}
        self.log_dict(logged, sync_dist=True)  # the same on all processes: it only calms a warning
        self.log(self.headline, numbers[self.headline], prog_bar=True, logger=False)
        if self.trainer.sanity_checking:
            return
        self._last_result = result
        if not self.trainer.is_global_zero:
            return
        self.write_metrics(self.run_dir / self.metrics_file, result)
        if not self.is_fitting:
            self.write_predictions()
            self._print_result(result)

    @rank_zero_only
    def _print_result(self, result: R) -> None:
        path = self.run_dir / self.metrics_file
        print(f"\n{self.table(result)}Written to {path}", flush=True)


def dataset_name(dataset: Any) -> str:
    """Return the name of a dataset in results: its ``name``, or its class."""
    return getattr(dataset, "name", type(dataset).__name__)
