"""Training and measuring an attribute network with Lightning."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...backbone.errors import WeightsError
from ...datasets.errors import DataError
from ...datasets.types import AttributeBatch
from ..distillation import Distillation, SoftTargets
from .average_precision import Criterion
from .describing import DescribingTask
from .evaluator import AttributeEvaluator
from .job import AttributeJob, attribute_numbers
from .losses import LabelLoss
from .metrics import AttributeResult, write_metrics
from .mixup import FaceMixup
from .model import AttributeOutput
from .tables import format_table

PREDICTIONS_FILE = "predictions.csv"


class AttributeTask(DescribingTask[AttributeEvaluator, AttributeResult]):
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
        mixup: Blends the faces of a training batch; None leaves them.
        landmark_weight: Factor of the landmarks' loss, where the network says any.
        threshold_criterion: What the thresholds make as large as possible on validation.
        groups: Sensitive attributes: measures are given for those that have and lack them, too.
        **options: See ``ImageTask``.
    """

    kind = "an attribute network"

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: LabelLoss | None = None,
        distillation: Distillation | None = None,
        mixup: FaceMixup | None = None,
        landmark_weight: float = 1.0,
        threshold_criterion: Criterion = "f1",
        groups: tuple[str, ...] = ("Male", "Young"),
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.categories = dict(categories)
        self.job = AttributeJob(self.categories, loss, landmark_weight, threshold_criterion, groups)
        self.distillation = distillation
        self.mixup = mixup

    @property
    def attribute_result(self) -> AttributeResult | None:
        """What the newest evaluation measured; None before the first."""
        return self.last_result

    @property
    def thresholds(self) -> dict[str, float]:
        """Attribute -> the probability from which on it is said to be there; 0.5 if not named."""
        return dict(self.facts.get("thresholds", {}))

    # --- losses

    def losses(self, output: AttributeOutput, batch: AttributeBatch) -> dict[str, Tensor]:
        """Return the losses of the known labels and landmarks, and what the teacher adds."""
        losses = self.job.losses(output, batch, self.facts)
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
        spoken = getattr(self.distillation.teacher, "attributes", None) or names
        if tuple(spoken) != names:
            raise WeightsError(
                f"the teacher speaks of {', '.join(spoken[:3])}, ... and the student of "
                f"{', '.join(names[:3])}, ...: give both the same attributes in the same order "
                "(data.attributes)."
            )

    def training_step(self, batch: AttributeBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, blended first where ``mixup`` says so."""
        if self.mixup is not None:
            batch = self.mixup(batch, (self.global_step, self.global_rank))
        return super().training_step(batch, batch_idx)

    # --- evaluation

    def make_evaluator(self, dataset: Any) -> AttributeEvaluator:
        """Return what gathers logits by sample."""
        return self.job.make_evaluator(dataset)

    def collect(self, output: AttributeOutput, batch: AttributeBatch) -> Tensor:
        """Return the logits (B, A) of a batch."""
        self.job.collect(self.evaluator, output, batch)
        return output.logits

    def measure(self, stage: str) -> AttributeResult:  # noqa: ARG002
        """Return the measures; while training, thresholds are chosen on the same pictures first."""
        choose = self.is_fitting and not self.trainer.sanity_checking
        return self.job.measure(self.evaluator, self.facts, choose)

    def numbers(self, result: AttributeResult) -> dict[str, float]:
        """Return the means; NaN where no attribute has what the figure needs."""
        return attribute_numbers(result)

    def table(self, result: AttributeResult) -> str:
        """Return the attributes as text."""
        return format_table(result)

    def write_metrics(self, path: Path, result: AttributeResult) -> None:
        """Write the measures as JSON."""
        write_metrics(path, result)

    def write_predictions(self) -> None:
        """Write ``predictions.csv``."""
        self.write_answers(PREDICTIONS_FILE, "Predictions", self.evaluator.to_csv())
