"""Training and measuring a classifier with Lightning."""

from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from ...datasets.files import write_atomically
from ...datasets.types import ClassificationBatch
from ..distillation import Distillation
from ..task import ImageTask, MakeOptimizer, MakeSchedule
from .metrics import (
    ClassificationEvaluator,
    ClassificationResult,
    format_table,
    write_metrics,
)
from .mixing import BatchMix

METRICS_FILE = "classification_metrics.json"
PREDICTIONS_FILE = "predictions.csv"


class ClassificationTask(ImageTask):
    """Train, validate, test and predict with a classifier, such as ``Classifier``.

    Logs ``train/loss`` at each step, ``val/loss``, ``val/top1`` and ``val/top5`` at each
    validation, likewise ``test/...``. Writes ``classification_metrics.json``, and after
    validate, test and predict ``predictions.csv``, into the run's directory.

    Args:
        network: Pictures (B, 3, H, W) uint8 RGB to logits (B, C).
        categories: Key to name of the classes; the position is the class index. The command line
            links it from the data.
        loss: Of logits (B, C) with labels (B,) or, under ``mix``, probabilities (B, C); None is
            the cross entropy. The same in training and evaluation.
        mix: Blends the pictures of a training batch; None leaves them.
        distillation: Lets the network learn from a teacher, too. Its loss is part of
            ``train/loss`` and of no other.
        weights: As for ``ImageTask``, and so are the others.
        optimizer: Makes the optimiser.
        lr_scheduler: Makes the schedule.
        channels_last: Memory format of network and pictures.
        decay_depthwise: False leaves depthwise filters out of weight decay.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: nn.Module | None = None,
        mix: BatchMix | None = None,
        distillation: Distillation | None = None,
        weights: str | None = None,
        optimizer: MakeOptimizer | None = None,
        lr_scheduler: MakeSchedule | None = None,
        channels_last: bool = False,
        decay_depthwise: bool = True,
    ) -> None:
        super().__init__(network, weights, optimizer, lr_scheduler, channels_last, decay_depthwise)
        self.categories = dict(categories)
        self.loss = loss or nn.CrossEntropyLoss()
        self.mix = mix
        self.distillation = distillation
        self._evaluator: ClassificationEvaluator | None = None
        self._last_result: ClassificationResult | None = None

    @property
    def last_result(self) -> ClassificationResult | None:
        """What the newest evaluation measured; None before the first."""
        return self._last_result

    def losses(self, output: Tensor, batch: ClassificationBatch) -> dict[str, Tensor]:
        """Return the loss of logits (B, C) against the labels, and what the teacher adds.

        Args:
            output: (B, C), the network's logits.
            batch: The pictures; its labels may be probabilities (B, C) float32.
        """
        losses = {"labels": self.loss(output, batch.labels)}
        if self.distillation is None or not self.training:
            return losses
        losses["labels"] = self.distillation.label_weight * losses["labels"]
        return losses | self.distillation(output, batch.images, batch.paths)

    def on_fit_start(self) -> None:
        """Read the teacher, if there is one, to where the network is by now."""
        if self.distillation is not None:
            data = getattr(self.trainer, "datamodule", None)
            files = getattr(getattr(data, "datasets", {}).get("train"), "paths", None)
            self.distillation.prepare(len(self.categories), self.device, files)

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, blended first where ``mix`` says so."""
        if self.mix is not None:
            seed = (self.global_step, self.global_rank)
            images, labels = self.mix(batch.images, batch.labels, len(self.categories), seed)
            batch = batch._replace(images=images, labels=labels)
        return super().training_step(batch, batch_idx)

    # --- evaluation, one path for validation, test and prediction

    def on_validation_epoch_start(self) -> None:
        """Start with no predictions."""
        self._start_evaluation(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        """Start with no predictions."""
        self._start_evaluation(self.trainer.test_dataloaders)

    def on_predict_epoch_start(self) -> None:
        """Start with no predictions."""
        self._start_evaluation(self.trainer.predict_dataloaders)

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Return the logits (B, C) of a batch."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Return the logits (B, C) of a batch."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the logits (B, C) of a batch."""
        return self._classify(batch)

    def on_validation_epoch_end(self) -> None:
        """Measure and log; while training the table waits for the end."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Measure, log and print."""
        self._measure("test")

    def on_predict_epoch_end(self) -> None:
        """Write ``predictions.csv``."""
        self.evaluator.gather()
        self._write_predictions()

    def on_fit_end(self) -> None:
        """Print the table of the last validation."""
        if self._last_result is not None:
            self._print_result(self._last_result)

    @property
    def evaluator(self) -> ClassificationEvaluator:
        """What collects the predictions of this evaluation."""
        if self._evaluator is None:
            raise RuntimeError("no evaluation is running")
        return self._evaluator

    def _start_evaluation(self, loader: Any) -> None:
        name = getattr(loader.dataset, "name", type(loader.dataset).__name__)
        self._evaluator = ClassificationEvaluator(list(self.categories.values()), name)

    def _classify(self, batch: ClassificationBatch) -> Tensor:
        logits = self(batch.images)
        self.evaluator.update(batch.ids, batch.labels, logits, batch.paths)
        return logits

    def _evaluate(self, stage: str, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        logits = self._classify(batch)
        self.log_losses(stage, self.losses(logits, batch), batch, batch_idx)
        return logits

    def _measure(self, stage: str) -> None:
        result = self.evaluator.compute()
        numbers = {f"{stage}/top1": result.top1, f"{stage}/top5": result.top5}
        self.log_dict(numbers, sync_dist=True)  # the same on all processes: it only calms a warning
        self.log("top1", result.top1, prog_bar=True, logger=False)
        if self.trainer.sanity_checking:
            return
        self._last_result = result
        if self.trainer.is_global_zero:
            write_metrics(self.run_dir / METRICS_FILE, result)
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._write_predictions()
            self._print_result(result)

    @rank_zero_only
    def _print_result(self, result: ClassificationResult) -> None:
        print(f"\n{format_table(result)}Written to {self.run_dir / METRICS_FILE}", flush=True)

    @rank_zero_only
    def _write_predictions(self) -> None:
        path = self.run_dir / PREDICTIONS_FILE
        write_atomically(path, self.evaluator.to_csv().encode())
        print(f"Predictions: {path}", flush=True)
