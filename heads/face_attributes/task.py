"""Training and measuring an attribute network with Lightning."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backbone.errors import WeightsError
from ...datasets.errors import DataError
from ...datasets.types import AttributeBatch
from ..distillation import Distillation, SoftTargets
from ..evaluation import EvaluatedTask, dataset_name
from ..task import MakeOptimizer, MakeSchedule
from .evaluator import AttributeEvaluator
from .losses import BinaryCrossEntropy, LabelLoss, landmark_loss, masked_mean
from .measures import Criterion, choose_threshold
from .metrics import AttributeResult, measure, write_metrics
from .model import AttributeOutput, landmarks_in_pixels
from .tables import format_table

PREDICTIONS_FILE = "predictions.csv"
_EYES = (0, 1)


class AttributeTask(EvaluatedTask[AttributeEvaluator, AttributeResult]):
    """Train, validate, test and predict with an attribute network, such as ``AttributeNetwork``.

    Logs ``train/loss`` at each step, ``val/loss``, ``val/mean_ap``, ``val/mean_accuracy`` and
    ``val/mean_balanced_accuracy`` at each validation, likewise ``test/...``. Writes
    ``attribute_metrics.json``, and after validate, test and predict ``predictions.csv``, into the
    run's directory. While training, each validation chooses a threshold for each attribute;
    checkpoints hold them (entry ``mobilevision``: ``thresholds``, ``thresholds_from``), and every
    later evaluation uses them.

    Args:
        network: Pictures (B, 3, H, W) uint8 RGB to ``AttributeOutput``.
        categories: Position -> name of the attributes. The command line links it from the data.
        loss: Of each label; None is the cross entropy. The same in training and evaluation.
        distillation: Lets the network learn from a teacher, too; its objective should be
            ``SoftLabels``. Its loss is part of ``train/loss`` and of no other.
        landmark_weight: Factor of the landmarks' loss, where the network says any.
        threshold_criterion: What the thresholds make as large as possible on validation.
        groups: Sensitive attributes: measures are given for those that have and lack them, too.
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
        loss: LabelLoss | None = None,
        distillation: Distillation | None = None,
        landmark_weight: float = 1.0,
        threshold_criterion: Criterion = "f1",
        groups: tuple[str, ...] = ("Male", "Young"),
        weights: str | None = None,
        optimizer: MakeOptimizer | None = None,
        lr_scheduler: MakeSchedule | None = None,
        channels_last: bool = False,
        decay_depthwise: bool = True,
    ) -> None:
        super().__init__(network, weights, optimizer, lr_scheduler, channels_last, decay_depthwise)
        self.categories = dict(categories)
        self.loss = loss or BinaryCrossEntropy()
        self.distillation = distillation
        self.landmark_weight = landmark_weight
        self.threshold_criterion: Criterion = threshold_criterion
        self.groups = tuple(groups)

    @property
    def thresholds(self) -> dict[str, float]:
        """Attribute -> the probability from which on it is said to be there; 0.5 if not named."""
        return dict(self.facts.get("thresholds", {}))

    # --- losses

    def losses(self, output: AttributeOutput, batch: AttributeBatch) -> dict[str, Tensor]:
        """Return the losses of the known labels and landmarks, and what the teacher adds."""
        counts = self.facts.get("label_counts")
        table = None if counts is None else torch.tensor(counts, device=output.logits.device)
        each = self.loss(output.logits, batch.labels, table)
        losses = {"labels": masked_mean(each, batch.labels)}
        if output.landmarks is not None:
            size_hw = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
            points = landmark_loss(output.landmarks, batch.landmarks, size_hw)
            losses["landmarks"] = self.landmark_weight * points
        if self.distillation is None or not self.training:
            return losses
        losses["labels"] = self.distillation.label_weight * losses["labels"]
        return losses | self.distillation(output.logits, batch.images, batch.paths)

    def on_fit_start(self) -> None:
        """Count the training labels and read the teacher, if there is one."""
        data = getattr(self.trainer, "datamodule", None)
        dataset = getattr(data, "datasets", {}).get("train")
        if dataset is not None:
            self.facts["label_counts"] = dataset.label_counts.tolist()
        if self.distillation is None:
            return
        if isinstance(self.distillation.objective, SoftTargets):
            raise DataError(
                "model.distillation.objective: SoftTargets is for one class of many, and a face "
                "has many attributes. Name mobilevision.heads.distillation.SoftLabels."
            )
        names = tuple(self.categories.values())
        self.distillation.prepare(len(names), self.device, getattr(dataset, "paths", None))
        spoken = getattr(self.distillation.teacher, "attributes", None) or names
        if tuple(spoken) != names:
            raise WeightsError(
                f"the teacher speaks of {', '.join(spoken[:3])}, ... and the student of "
                f"{', '.join(names[:3])}, ...: give both the same attributes in the same order "
                "(data.attributes)."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain facts, the attributes' names among them."""
        self.facts["attributes"] = list(self.categories.values())
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the plain facts back.

        Raises:
            WeightsError: The checkpoint is of other attributes than the data.
        """
        super().on_load_checkpoint(checkpoint)
        names = list(self.categories.values())
        trained = self.facts.get("attributes", names)
        if trained != names:
            raise WeightsError(
                f"the checkpoint is of the attributes {', '.join(trained)}, and the data has "
                f"{', '.join(names)}. Choose the former with data.attributes, in their order."
            )

    # --- evaluation

    metrics_file = "attribute_metrics.json"
    headline = "mean_ap"

    def make_evaluator(self, dataset: Any) -> AttributeEvaluator:
        """Return what gathers logits by sample."""
        return AttributeEvaluator(list(self.categories.values()), dataset_name(dataset))

    def collect(self, output: AttributeOutput, batch: AttributeBatch) -> Tensor:
        """Return the logits (B, A) of a batch."""
        errors = None
        if output.landmarks is not None:
            size_hw = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
            said = landmarks_in_pixels(output.landmarks.float(), size_hw)
            errors = landmark_errors(said, batch.landmarks)
        self.evaluator.update(batch.ids, batch.labels, output.logits, batch.paths, errors)
        return output.logits

    def measure(self, stage: str) -> AttributeResult:  # noqa: ARG002
        """Return the measures; while training, thresholds are chosen on the same pictures first."""
        predictions = self.evaluator.gather()
        names, dataset = self.evaluator.attributes, self.evaluator.dataset
        counts = self.facts.get("label_counts")
        training = None if counts is None else np.array(counts)
        result = measure(predictions, names, dataset, self.thresholds, self.groups, training)
        if self.is_fitting and not self.trainer.sanity_checking:
            self._choose_thresholds(result)
            result = measure(predictions, names, dataset, self.thresholds, self.groups, training)
        return result

    def numbers(self, result: AttributeResult) -> dict[str, float]:
        """Return the means; NaN where no attribute has what the figure needs."""
        shown = ("mean_ap", "mean_accuracy", "mean_balanced_accuracy")
        means = {name: getattr(result.means, name) for name in shown}
        return {name: float("nan") if x is None else x for name, x in means.items()}

    def table(self, result: AttributeResult) -> str:
        """Return the attributes as text."""
        return format_table(result)

    def write_metrics(self, path: Path, result: AttributeResult) -> None:
        """Write the measures as JSON."""
        write_metrics(path, result)

    def write_predictions(self) -> None:
        """Write ``predictions.csv``."""
        self.write_answers(PREDICTIONS_FILE, "Predictions", self.evaluator.to_csv())

    def _choose_thresholds(self, result: AttributeResult) -> None:
        chosen = {
            name: choose_threshold(points, self.threshold_criterion)
            for name, points in result.curves.items()
        }
        self.facts["thresholds"] = {name: x for name, x in chosen.items() if x is not None}
        self.facts["thresholds_from"] = f"{result.dataset}, {self.threshold_criterion}"


def landmark_errors(said: Tensor, landmarks: Tensor) -> Tensor:
    """The mean distance of five landmarks as a share of the distance between the eyes.

    Args:
        said: (B, 5, 2) float, px.
        landmarks: (B, 5, 2) float, px; NaN where they are not known.

    Returns:
        (B,) float; NaN where they are not known.
    """
    eyes = (landmarks[:, _EYES[0]] - landmarks[:, _EYES[1]]).norm(dim=1)
    return (said - landmarks).norm(dim=2).mean(dim=1) / eyes
