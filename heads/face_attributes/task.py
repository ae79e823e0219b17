"""Training and measuring an attribute network with Lightning."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from ...backbone.errors import WeightsError
from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.types import AttributeBatch
from ..distillation import Distillation, SoftTargets
from ..task import ImageTask, MakeOptimizer, MakeSchedule
from .evaluator import AttributeEvaluator
from .losses import BinaryCrossEntropy, LabelLoss, landmark_loss, masked_mean
from .measures import Criterion, choose_threshold
from .metrics import AttributeResult, measure, write_metrics
from .model import AttributeOutput, landmarks_in_pixels
from .tables import format_table

METRICS_FILE = "attribute_metrics.json"
PREDICTIONS_FILE = "predictions.csv"
_EYES = (0, 1)


class AttributeTask(ImageTask):
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
        self._evaluator: AttributeEvaluator | None = None
        self._last_result: AttributeResult | None = None

    @property
    def last_result(self) -> AttributeResult | None:
        """What the newest evaluation measured; None before the first."""
        return self._last_result

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

    def validation_step(self, batch: AttributeBatch, batch_idx: int) -> Tensor:
        """Return the logits (B, A) of a batch."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: AttributeBatch, batch_idx: int) -> Tensor:
        """Return the logits (B, A) of a batch."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: AttributeBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the logits (B, A) of a batch."""
        return self._describe(batch).logits

    def on_validation_epoch_end(self) -> None:
        """Choose thresholds while training, measure and log; the table waits for the end."""
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
    def evaluator(self) -> AttributeEvaluator:
        """What collects the predictions of this evaluation."""
        if self._evaluator is None:
            raise RuntimeError("no evaluation is running")
        return self._evaluator

    def _start_evaluation(self, loader: Any) -> None:
        name = getattr(loader.dataset, "name", type(loader.dataset).__name__)
        self._evaluator = AttributeEvaluator(list(self.categories.values()), name)

    def _describe(self, batch: AttributeBatch) -> AttributeOutput:
        output: AttributeOutput = self(batch.images)
        errors = None
        if output.landmarks is not None:
            size_hw = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
            said = landmarks_in_pixels(output.landmarks.float(), size_hw)
            errors = landmark_errors(said, batch.landmarks)
        self.evaluator.update(batch.ids, batch.labels, output.logits, batch.paths, errors)
        return output

    def _evaluate(self, stage: str, batch: AttributeBatch, batch_idx: int) -> Tensor:
        output = self._describe(batch)
        self.log_losses(stage, self.losses(output, batch), batch, batch_idx)
        return output.logits

    def _measure(self, stage: str) -> None:
        predictions = self.evaluator.gather()
        names, dataset = self.evaluator.attributes, self.evaluator.dataset
        counts = self.facts.get("label_counts")
        training = None if counts is None else np.array(counts)
        result = measure(predictions, names, dataset, self.thresholds, self.groups, training)
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if fitting and not self.trainer.sanity_checking:
            self._choose_thresholds(result)
            result = measure(predictions, names, dataset, self.thresholds, self.groups, training)
        means = result.means
        shown = ("mean_ap", "mean_accuracy", "mean_balanced_accuracy")
        # NaN: no attribute has what the figure needs.
        numbers = {name: getattr(means, name) for name in shown}
        numbers = {name: float("nan") if x is None else x for name, x in numbers.items()}
        logged = {f"{stage}/{name}": value for name, value in numbers.items()}
        self.log_dict(logged, sync_dist=True)  # the same on all processes: it only calms a warning
        self.log("mean_ap", numbers["mean_ap"], prog_bar=True, logger=False)
        if self.trainer.sanity_checking:
            return
        self._last_result = result
        if self.trainer.is_global_zero:
            write_metrics(self.run_dir / METRICS_FILE, result)
        if not fitting:
            self._write_predictions()
            self._print_result(result)

    def _choose_thresholds(self, result: AttributeResult) -> None:
        chosen = {
            name: choose_threshold(points, self.threshold_criterion)
            for name, points in result.curves.items()
        }
        self.facts["thresholds"] = {name: x for name, x in chosen.items() if x is not None}
        self.facts["thresholds_from"] = f"{result.dataset}, {self.threshold_criterion}"

    @rank_zero_only
    def _print_result(self, result: AttributeResult) -> None:
        print(f"\n{format_table(result)}Written to {self.run_dir / METRICS_FILE}", flush=True)

    @rank_zero_only
    def _write_predictions(self) -> None:
        path = self.run_dir / PREDICTIONS_FILE
        write_atomically(path, self.evaluator.to_csv().encode())
        print(f"Predictions: {path}", flush=True)


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
