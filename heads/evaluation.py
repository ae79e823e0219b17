"""Validation, test and prediction: one path for all of them, in every job."""

from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ..datasets.files import write_atomically
from .task import ImageTask

E = TypeVar("E")
R = TypeVar("R")


class EvaluatedTask(ImageTask, Generic[E, R]):
    """A task that collects answers in an evaluator, measures them, and writes what it measured.

    A job says what its evaluator is, how answers reach it, and how a result is made, logged and
    shown. Validation and test log the losses, too. The result goes to ``metrics_file`` in the run's
    directory each time; its table is printed at the end of a command.

    ``E`` is the type of the evaluator, ``R`` that of the result.
    """

    metrics_file: str
    """Name of the file of measures in the run's directory."""
    headline: str
    """The number of ``numbers`` that the progress bar shows."""
    evaluates_losses = True
    """Whether the losses mean something in evaluation."""

    _evaluator: E | None = None
    _last_result: R | None = None

    # --- what a job says

    def make_evaluator(self, dataset: Any) -> E:
        """Return what collects the answers for a data set."""
        raise NotImplementedError

    def collect(self, output: Any, batch: Any) -> Any:
        """Give the answers of a batch to ``evaluator`` and return them.

        Args:
            output: What the network says about the batch.
            batch: The images and what is true of them.
        """
        raise NotImplementedError

    def measure(self, stage: str) -> R | None:
        """Return the measures of everything that was collected; None where too little was.

        Args:
            stage: ``val`` or ``test``.
        """
        raise NotImplementedError

    def numbers(self, result: R) -> dict[str, float]:
        """Return what is logged of a result, without the stage's name."""
        raise NotImplementedError

    def table(self, result: R) -> str:
        """Return a result as text that ends in a line break."""
        raise NotImplementedError

    def write_metrics(self, path: Path, result: R) -> None:
        """Write a result as JSON."""
        raise NotImplementedError

    def write_predictions(self) -> None:
        """Write the answer for each image, see ``write_answers``; called on the first process."""

    def write_answers(self, name: str, label: str, content: str) -> None:
        """Write a file of answers into the run's directory and say where it is."""
        path = self.run_dir / name
        write_atomically(path, content.encode())
        print(f"{label}: {path}", flush=True)

    # --- Lightning's hooks

    @property
    def evaluator(self) -> E:
        """What collects the answers of this evaluation.

        Raises:
            RuntimeError: No evaluation is running.
        """
        if self._evaluator is None:
            raise RuntimeError("no evaluation is running")
        return self._evaluator

    @property
    def last_result(self) -> R | None:
        """What the newest evaluation measured; None before the first."""
        return self._last_result

    def on_validation_epoch_start(self) -> None:
        """Start with no answers."""
        self._evaluator = self.make_evaluator(_dataset(self.trainer.val_dataloaders))

    def on_test_epoch_start(self) -> None:
        """Start with no answers."""
        self._evaluator = self.make_evaluator(_dataset(self.trainer.test_dataloaders))

    def on_predict_epoch_start(self) -> None:
        """Start with no answers."""
        self._evaluator = self.make_evaluator(_dataset(self.trainer.predict_dataloaders))

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the answers for a batch."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the answers for a batch."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ARG002
        """Return the answers for a batch."""
        return self.collect(self(batch.images), batch)

    def on_validation_epoch_end(self) -> None:
        """Measure and log; while training the table waits for the end."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Measure, log and print."""
        self._measure("test")

    def on_predict_epoch_end(self) -> None:
        """Write the answers."""
        self.evaluator.gather()  # type: ignore[attr-defined]
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


def _dataset(loader: Any) -> Any:
    return loader.dataset


def dataset_name(dataset: Any) -> str:
    """What results call a data set: its ``name``, or its class."""
    return getattr(dataset, "name", type(dataset).__name__)
