"""Training and measuring an attribute network with Lightning."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...backbone.errors import WeightsError
from ...datasets.errors import DataError
from ...datasets.faces.labels import UNKNOWN
from ...datasets.types import AttributeBatch
from ..checkpoint import load_task
from ..distillation import Distillation, ModelTeacher, SoftTargets
from ..evaluation import EvaluatedTask, dataset_name
from .average_precision import Criterion, choose_threshold
from .losses import BinaryCrossEntropy, LabelLoss, expected_loss, landmark_loss, masked_mean
from .metrics import AttributeEvaluator, AttributeResult, format_table, measure
from .model import AttributeOutput, landmarks_in_pixels


class FaceMixup:
    """Weighted sums of two faces of a batch, of their labels and of their landmarks.

    A teacher sees the blend itself, so it has to be a network. The draws depend on the given seed
    alone, so a resumed run repeats them.

    Args:
        alpha: Parameter of the Beta distribution that the weight of a batch is drawn from.
        p: Chance that a batch is blended at all.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, alpha: float = 0.2, p: float = 1.0) -> None:
        if alpha <= 0 or not 0 <= p <= 1:
            raise ValueError(f"alpha={alpha} must be above 0, p={p} in [0, 1]")
        self.alpha = alpha
        self.p = p

    def __call__(self, batch: AttributeBatch, seed: tuple[int, ...]) -> AttributeBatch:
        """Blend each face with the one before it, or leave the batch as it is.

        ``seed`` are numbers, at least 0, of this draw, such as step and process. Blended
        are images, (B, 3, H, W) float32 in [0, 255], labels, (B, A) float32 in [0, 1], -1
        where one of the two is not known, and landmarks, NaN there; identities, ids and
        paths are left as they were.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return batch
        share = float(rng.beta(self.alpha, self.alpha))

        def blend(values: Tensor) -> Tensor:
            return torch.lerp(values.roll(1, dims=0), values, share)

        known = (batch.labels != UNKNOWN) & (batch.labels.roll(1, dims=0) != UNKNOWN)
        return batch._replace(
            images=blend(batch.images.float()),
            labels=blend(batch.labels.float()).masked_fill(~known, UNKNOWN),
            landmarks=blend(batch.landmarks),
        )


def attribute_numbers(result: AttributeResult) -> dict[str, float]:
    """Return the means that are logged; NaN where one is undefined."""
    shown = ("mean_ap", "mean_accuracy", "mean_balanced_accuracy")
    means = {name: getattr(result.means, name) for name in shown}
    return {name: float("nan") if x is None else x for name, x in means.items()}


def landmark_errors(predicted: Tensor, landmarks: Tensor) -> Tensor:
    """Return the mean distance (B,) of five landmarks as a share of that between the eyes.

    Both are (B, 5, 2) px, the eyes first; ``landmarks`` are NaN where they are not known.
    """
    eyes = (landmarks[:, 0] - landmarks[:, 1]).norm(dim=1)
    return (predicted - landmarks).norm(dim=2).mean(dim=1) / eyes


def _size_hw(batch: AttributeBatch) -> tuple[int, int]:
    return int(batch.images.shape[-2]), int(batch.images.shape[-1])


E = TypeVar("E")
R = TypeVar("R")


class DescribingTask(EvaluatedTask[E, R]):
    """Base of the tasks that predict attributes: their losses, measures and thresholds.

    Checkpoints hold the metadata ``attributes``, ``label_counts``, ``thresholds`` and
    ``thresholds_from``.

    Args:
        network: See the subclass.
        categories: Position -> name of the attributes. The command line links it from the data.
        landmark_weight: Factor of the landmarks' loss, where the network predicts any.
        threshold_criterion: What the thresholds maximize on validation.
        groups: Sensitive attributes: measures are also given for those that have and lack them.
        **options: See ``ImageTask``.
    """

    label_loss: LabelLoss
    metrics_file = "attribute_metrics.json"
    headline = "mean_ap"

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        landmark_weight: float = 1.0,
        threshold_criterion: Criterion = "f1",
        groups: tuple[str, ...] = ("Male", "Young"),
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.categories = dict(categories)
        self.landmark_weight = landmark_weight
        self.threshold_criterion: Criterion = threshold_criterion
        self.groups = tuple(groups)

    def count_labels(self) -> Any:
        """Count the training labels; return their dataset, None where there is none."""
        dataset = self.training_dataset
        if dataset is not None:
            self.metadata["label_counts"] = dataset.label_counts.tolist()
        return dataset

    def attribute_losses(self, output: AttributeOutput, batch: AttributeBatch) -> dict[str, Tensor]:
        """Return the losses of the known labels and landmarks."""
        counts = self.metadata.get("label_counts")
        table = None if counts is None else torch.tensor(counts, device=output.logits.device)
        each = expected_loss(self.label_loss, output.logits, batch.labels, table)
        losses = {"labels": masked_mean(each, batch.labels)}
        if output.landmarks is not None:
            points = landmark_loss(output.landmarks, batch.landmarks, _size_hw(batch))
            losses["landmarks"] = self.landmark_weight * points
        return losses

    def attribute_evaluator(self, dataset: Any) -> AttributeEvaluator:
        """Return the evaluator of logits."""
        return AttributeEvaluator(list(self.categories.values()), dataset_name(dataset))

    def collect_attributes(
        self, evaluator: AttributeEvaluator, output: AttributeOutput, batch: AttributeBatch
    ) -> None:
        """Give the predictions of a batch to an evaluator."""
        errors = None
        if output.landmarks is not None:
            points = landmarks_in_pixels(output.landmarks.float(), _size_hw(batch))
            errors = landmark_errors(points, batch.landmarks)
        evaluator.update(batch.ids, batch.labels, output.logits, batch.paths, errors)

    def measure_attributes(self, evaluator: AttributeEvaluator) -> AttributeResult:
        """Return the measures; while training, thresholds are chosen on the same images first."""
        predictions, counts = evaluator.gather(), self.metadata.get("label_counts")

        def result() -> AttributeResult:
            return measure(
                predictions, evaluator.attributes, evaluator.dataset, self.thresholds,
                self.groups, None if counts is None else np.array(counts),
            )  # fmt: skip

        if self.is_fitting and not self.trainer.sanity_checking:
            first = result()
            chosen = {
                name: choose_threshold(points, self.threshold_criterion)
                for name, points in first.curves.items()
            }
            self.metadata["thresholds"] = {name: x for name, x in chosen.items() if x is not None}
            self.metadata["thresholds_from"] = f"{first.dataset}, {self.threshold_criterion}"
        return result()

    @property
    def thresholds(self) -> dict[str, float]:
        """Attribute -> the least probability of "yes"; 0.5 if not named."""
        return dict(self.metadata.get("thresholds", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metadata, the attributes' names among them."""
        self.metadata["attributes"] = list(self.categories.values())
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the metadata; other attributes than the data's raise a WeightsError."""
        super().on_load_checkpoint(checkpoint)
        names = list(self.categories.values())
        trained = self.metadata.get("attributes", names)
        if trained != names:
            raise WeightsError(
                f"the checkpoint is of the attributes {', '.join(trained)}, and the data has "
                f"{', '.join(names)}. Choose the former with data.attributes, in their order."
            )


class AttributeTask(DescribingTask[AttributeEvaluator, AttributeResult]):
    """Train, validate, test and predict with an attribute network, such as ``AttributeNetwork``.

    Logs ``train/loss`` at each step, ``val/loss``, ``val/mean_ap``, ``val/mean_accuracy`` and
    ``val/mean_balanced_accuracy`` at each validation, likewise ``test/...``. Writes
    ``attribute_metrics.json``, and after validate, test and predict ``predictions.csv``, into the
    run's directory. While training, each validation chooses a threshold for each attribute;
    checkpoints hold them (entry ``mobilevision``: ``thresholds``, ``thresholds_from``), and every
    later evaluation uses them.

    Args:
        network: Images (B, 3, H, W) uint8 RGB to ``AttributeOutput``.
        categories: Position -> name of the attributes. The command line links it from the data.
        loss: Of each label; None is the cross entropy. The same in training and evaluation.
        distillation: Lets the network learn from a teacher, too; its objective should be
            ``SoftLabels``. Its loss is part of ``train/loss`` and of no other.
        mixup: Blends the faces of a training batch; None leaves them.
        **options: See ``DescribingTask``.
    """

    kind = "an attribute network"
    table = staticmethod(format_table)
    numbers = staticmethod(attribute_numbers)

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: LabelLoss | None = None,
        distillation: Distillation | None = None,
        mixup: FaceMixup | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, categories, **options)
        self.label_loss = loss or BinaryCrossEntropy()
        self.distillation = distillation
        self.mixup = mixup

    @property
    def attribute_result(self) -> AttributeResult | None:
        """The result of the newest evaluation; None before the first."""
        return self.last_result

    # --- losses

    def losses(self, output: AttributeOutput, batch: AttributeBatch) -> dict[str, Tensor]:
        """Return the losses of the known labels and landmarks, and what the teacher adds."""
        losses = self.attribute_losses(output, batch)
        if self.distillation is None or not self.training:
            return losses
        losses["labels"] = self.distillation.label_weight * losses["labels"]
        return losses | self.distillation(output.logits, batch.images, batch.paths)

    def on_fit_start(self) -> None:
        """Count the training labels and read the teacher, if there is one."""
        dataset = self.count_labels()
        if self.distillation is None:
            return
        if isinstance(self.distillation.objective, SoftTargets):
            raise DataError(
                "model.distillation.objective: SoftTargets is for one class of many, and a face "
                "has many attributes. Name mobilevision.heads.distillation.SoftLabels."
            )
        names = tuple(self.categories.values())
        files = getattr(dataset, "paths", None)
        self.distillation.prepare(len(names), self.device, files, self.mixup is not None)
        taught = getattr(self.distillation.teacher, "attributes", None) or names
        if tuple(taught) != names:
            raise WeightsError(
                f"the teacher predicts {', '.join(taught[:3])}, ... and the student "
                f"{', '.join(names[:3])}, ...: give both the same attributes in the same order "
                "(data.attributes)."
            )

    def training_step(self, batch: AttributeBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, blended first by ``mixup``."""
        if self.mixup is not None:
            batch = self.mixup(batch, (self.global_step, self.global_rank))
        return super().training_step(batch, batch_idx)

    # --- evaluation

    def make_evaluator(self, dataset: Any) -> AttributeEvaluator:
        """Return the evaluator of logits."""
        return self.attribute_evaluator(dataset)

    def collect(self, output: AttributeOutput, batch: AttributeBatch) -> Tensor:
        """Return the logits (B, A) of a batch."""
        self.collect_attributes(self.evaluator, output, batch)
        return output.logits

    def measure(self, stage: str) -> AttributeResult:  # noqa: ARG002
        """See ``measure_attributes``."""
        return self.measure_attributes(self.evaluator)


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class AttributeTeacher(ModelTeacher):
    """An attribute network of this package, from its checkpoint.

    It sees the images as the student does, after augmentation.

    Args:
        checkpoint: A checkpoint of an ``AttributeTask``.
        size_hw: What images are resized to for it; None takes the size of its training.
    """

    def __init__(self, checkpoint: str | Path, size_hw: tuple[int, int] | None = None) -> None:
        # The network normalizes by itself.
        super().__init__(nn.Identity, None, size_hw, pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1))
        self.path = Path(checkpoint)
        self.attributes: tuple[str, ...] | None = None
        """The attributes that it predicts, once it has been read."""

    def _make(self) -> nn.Module:
        task = load_task(self.path, AttributeTask)
        self.attributes = tuple(task.categories.values())
        if self.size_hw is None and "size_hw" in task.metadata:
            height, width = task.metadata["size_hw"]
            self.size_hw = (int(height), int(width))
        return _Logits(task.network)
