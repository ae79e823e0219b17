"""Training and evaluation: the LightningModule."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mobilevision.datasets.files import write_atomically
from mobilevision.heads.evaluation import EvaluatedTask, dataset_name

from .losses import brightness_losses
from .metrics import BrightnessEvaluator, BrightnessResult, Predictions


class BrightnessTask(EvaluatedTask[BrightnessEvaluator, BrightnessResult]):
    """Train, validate, test and predict; the options are those of ``ImageTask``."""

    kind = "a brightness network"
    metrics_file = "brightness_metrics.json"
    headline = "mean_absolute_error"

    def losses(self, output: Tensor, batch: Any) -> dict[str, Tensor]:
        """Return the losses of the network's output."""
        return brightness_losses(output, batch.brightness)

    def make_evaluator(self, dataset: Any) -> BrightnessEvaluator:
        """Return what collects predictions."""
        return BrightnessEvaluator(dataset_name(dataset))

    def collect(self, output: Tensor, batch: Any) -> Tensor:
        """Give the evaluator the predictions of a batch."""
        predicted = output.sigmoid().float()
        fields = (batch.ids, batch.brightness, predicted)
        part = Predictions(*(field.numpy(force=True) for field in fields))
        self.evaluator.add(part, batch.paths)
        return predicted

    def measure(self, stage: str) -> BrightnessResult:  # noqa: ARG002
        """Return the mean absolute error."""
        return self.evaluator.compute()

    def numbers(self, result: BrightnessResult) -> dict[str, float]:
        """Return what is logged."""
        return {self.headline: result.mean_absolute_error}

    def table(self, result: BrightnessResult) -> str:
        """Return the result as text."""
        return f"{result.images} images, mean absolute error {result.mean_absolute_error:.3f}\n"

    def write_metrics(self, path: Path, result: BrightnessResult) -> None:
        """Write the result as JSON."""
        write_atomically(path, json.dumps(result._asdict()).encode())
