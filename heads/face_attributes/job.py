"""What is learned and measured of attributes, whatever else a network says."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...backbone.errors import WeightsError
from ...datasets.types import AttributeBatch
from ..evaluation import dataset_name
from .average_precision import Criterion, choose_threshold
from .evaluator import AttributeEvaluator
from .losses import BinaryCrossEntropy, LabelLoss, expected_loss, landmark_loss, masked_mean
from .metrics import AttributeResult, measure
from .model import AttributeOutput, landmarks_in_pixels

_EYES = (0, 1)


class AttributeJob:
    """The losses of an ``AttributeOutput``, its measures and its thresholds.

    A task that has one keeps its own plain facts, which go into checkpoints, and hands them in:
    ``attributes``, ``label_counts``, ``thresholds`` and ``thresholds_from`` are the job's.

    Args:
        categories: Position -> name of the attributes.
        loss: Of each label; None is the cross entropy.
        landmark_weight: Factor of the landmarks' loss, where the network says any.
        threshold_criterion: What the thresholds make as large as possible on validation.
        groups: Sensitive attributes: measures are given for those that have and lack them, too.
    """

    def __init__(
        self,
        categories: Mapping[int, str],
        loss: LabelLoss | None = None,
        landmark_weight: float = 1.0,
        threshold_criterion: Criterion = "f1",
        groups: tuple[str, ...] = ("Male", "Young"),
    ) -> None:
        self.names = list(categories.values())
        self.loss = loss or BinaryCrossEntropy()
        self.landmark_weight = landmark_weight
        self.threshold_criterion: Criterion = threshold_criterion
        self.groups = tuple(groups)

    def losses(
        self, output: AttributeOutput, batch: AttributeBatch, facts: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Return the losses of the known labels and landmarks."""
        counts = facts.get("label_counts")
        table = None if counts is None else torch.tensor(counts, device=output.logits.device)
        each = expected_loss(self.loss, output.logits, batch.labels, table)
        losses = {"labels": masked_mean(each, batch.labels)}
        if output.landmarks is not None:
            points = landmark_loss(output.landmarks, batch.landmarks, _size_hw(batch))
            losses["landmarks"] = self.landmark_weight * points
        return losses

    def make_evaluator(self, dataset: Any) -> AttributeEvaluator:
        """Return what gathers logits by sample."""
        return AttributeEvaluator(self.names, dataset_name(dataset))

    def collect(
        self, evaluator: AttributeEvaluator, output: AttributeOutput, batch: AttributeBatch
    ) -> None:
        """Give the answers of a batch to an evaluator."""
        errors = None
        if output.landmarks is not None:
            said = landmarks_in_pixels(output.landmarks.float(), _size_hw(batch))
            errors = landmark_errors(said, batch.landmarks)
        evaluator.update(batch.ids, batch.labels, output.logits, batch.paths, errors)

    def measure(
        self, evaluator: AttributeEvaluator, facts: dict[str, Any], choose: bool
    ) -> AttributeResult:
        """Return the measures at the stored thresholds.

        Args:
            evaluator: Has all answers.
            facts: The task's.
            choose: Whether thresholds are chosen on the same pictures first.
        """
        predictions, counts = evaluator.gather(), facts.get("label_counts")

        def result() -> AttributeResult:
            return measure(
                predictions, evaluator.attributes, evaluator.dataset, facts.get("thresholds"),
                self.groups, None if counts is None else np.array(counts),
            )  # fmt: skip

        if choose:
            first = result()
            chosen = {
                name: choose_threshold(points, self.threshold_criterion)
                for name, points in first.curves.items()
            }
            facts["thresholds"] = {name: x for name, x in chosen.items() if x is not None}
            facts["thresholds_from"] = f"{first.dataset}, {self.threshold_criterion}"
        return result()

    def check(self, facts: Mapping[str, Any]) -> None:
        """Insist on a checkpoint of the same attributes.

        Raises:
            WeightsError: The checkpoint is of other attributes than the data.
        """
        trained = facts.get("attributes", self.names)
        if trained != self.names:
            raise WeightsError(
                f"the checkpoint is of the attributes {', '.join(trained)}, and the data has "
                f"{', '.join(self.names)}. Choose the former with data.attributes, in their order."
            )


def attribute_numbers(result: AttributeResult) -> dict[str, float]:
    """The means that are logged; NaN where no attribute has what the figure needs."""
    shown = ("mean_ap", "mean_accuracy", "mean_balanced_accuracy")
    means = {name: getattr(result.means, name) for name in shown}
    return {name: float("nan") if x is None else x for name, x in means.items()}


def landmark_errors(said: Tensor, landmarks: Tensor) -> Tensor:
    """The mean distance of five landmarks as a share of the distance between the eyes.

    Args:
        said: (B, 5, 2) float, px.
        landmarks: (B, 5, 2) float32, px; NaN where they are not known.

    Returns:
        (B,) float; NaN where they are not known.
    """
    eyes = (landmarks[:, _EYES[0]] - landmarks[:, _EYES[1]]).norm(dim=1)
    return (said - landmarks).norm(dim=2).mean(dim=1) / eyes


def _size_hw(batch: AttributeBatch) -> tuple[int, int]:
    return int(batch.images.shape[-2]), int(batch.images.shape[-1])
