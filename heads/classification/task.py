"""Training and measuring a classifier with Lightning."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...datasets.types import ClassificationBatch
from ..distillation import Distillation
from ..evaluation import EvaluatedTask, dataset_name
from .metrics import ClassificationEvaluator, ClassificationResult, format_table, write_metrics
from .mixup import BatchMix

PREDICTIONS_FILE = "predictions.csv"
CROP = "crop_fraction"
"""Key of the metadata for the central part of an image that evaluation looks at, see
``CentreCrop``; None is the whole image, stretched."""


class ClassificationTask(EvaluatedTask[ClassificationEvaluator, ClassificationResult]):
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
        **options: See ``ImageTask``.
    """

    kind = "a classifier"

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: nn.Module | None = None,
        mix: BatchMix | None = None,
        distillation: Distillation | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.categories = dict(categories)
        self.loss = loss or nn.CrossEntropyLoss()
        self.mix = mix
        self.distillation = distillation

    def setup(self, stage: str) -> None:
        """Keep in checkpoints which part of an image evaluation looks at, for predictions."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.facts[CROP] = getattr(data.val_transform, "fraction", None)

    def losses(self, output: Tensor, batch: ClassificationBatch) -> dict[str, Tensor]:
        """Return the loss of logits (B, C) against the labels, and what the teacher adds.

        Args:
            output: (B, C), the network's logits.
            batch: The pictures; its labels may be probabilities (B, C) float32.
        """
        # torch's mean over no pictures is not a number.
        losses = {"labels": self.loss(output, batch.labels) if len(output) else output.sum()}
        if self.distillation is None or not self.training:
            return losses
        losses["labels"] = self.distillation.label_weight * losses["labels"]
        return losses | self.distillation(output, batch.images, batch.paths)

    def on_fit_start(self) -> None:
        """Read the teacher, if there is one, to where the network is by now."""
        if self.distillation is not None:
            data = getattr(self.trainer, "datamodule", None)
            files = getattr(getattr(data, "datasets", {}).get("train"), "paths", None)
            blended = self.mix is not None
            self.distillation.prepare(len(self.categories), self.device, files, blended)

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, blended first where ``mix`` says so."""
        if self.mix is not None:
            seed = (self.global_step, self.global_rank)
            images, labels = self.mix(batch.images, batch.labels, len(self.categories), seed)
            batch = batch._replace(images=images, labels=labels)
        return super().training_step(batch, batch_idx)

    # --- evaluation

    metrics_file = "classification_metrics.json"
    headline = "top1"

    def make_evaluator(self, dataset: Any) -> ClassificationEvaluator:
        """Return what gathers logits by sample."""
        return ClassificationEvaluator(list(self.categories.values()), dataset_name(dataset))

    def collect(self, output: Tensor, batch: ClassificationBatch) -> Tensor:
        """Return the logits (B, C) of a batch."""
        self.evaluator.update(batch.ids, batch.labels, output, batch.paths)
        return output

    def measure(self, stage: str) -> ClassificationResult:  # noqa: ARG002
        """Return top-1, top-5 and the measures of each class."""
        return self.evaluator.compute()

    def numbers(self, result: ClassificationResult) -> dict[str, float]:
        """Return top-1 and top-5."""
        return {"top1": result.top1, "top5": result.top5}

    def table(self, result: ClassificationResult) -> str:
        """Return the classes as text, the worst first."""
        return format_table(result)

    def write_metrics(self, path: Path, result: ClassificationResult) -> None:
        """Write the measures as JSON."""
        write_metrics(path, result)

    def write_predictions(self) -> None:
        """Write ``predictions.csv``."""
        self.write_answers(PREDICTIONS_FILE, "Predictions", self.evaluator.to_csv())
