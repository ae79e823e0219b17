"""Measures of attribute networks: each attribute, the means, by group. Free of torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.labels import UNKNOWN, label_counts
from ..distributed import SampleEvaluator
from .average_precision import DEFAULT_THRESHOLD, Curve, average_precision, curve, decide, share

if TYPE_CHECKING:
    from torch import Tensor


class AttributePredictions(NamedTuple):
    """Predictions for N faces."""

    ids: np.ndarray
    """(N,) int64."""
    labels: np.ndarray
    """(N, A) int8: 1 yes, 0 no, -1 not known."""
    probabilities: np.ndarray
    """(N, A) float32."""
    landmark_errors: np.ndarray
    """(N,) float32, see `AttributeResult`; NaN where it is not known."""


class AttributeEvaluator(SampleEvaluator[AttributePredictions]):
    """Collects the predictions of a network of the named ``attributes``."""

    def __init__(self, attributes: Sequence[str], dataset: str) -> None:
        super().__init__(dataset)
        self.attributes = self.columns = tuple(attributes)

    def update(
        self,
        ids: "Tensor",
        labels: "Tensor",
        logits: "Tensor",
        paths: Sequence[str] = (),
        landmark_errors: "Tensor | None" = None,
    ) -> None:
        """Add a batch: ids (B,) int64, labels (B, A) int8, logits (B, A) and B files.

        ``landmark_errors`` are (B,), None where no landmarks are predicted.

        Raises:
            DataError: The model has another number of attributes than the data.
            ValueError: A logit is not finite.
        """
        known = len(self.attributes)
        if logits.shape[1] != known or labels.shape[1] != known:
            raise DataError(
                f"{self.dataset}: the model has {logits.shape[1]} attributes, the data "
                f"{labels.shape[1]} and names for {known}. Evaluate on data with the model's "
                "attributes; data.attributes chooses them."
            )
        self.require_finite(logits)
        errors = np.full(len(ids), np.nan, dtype=np.float32)
        if landmark_errors is not None:
            errors = landmark_errors.float().numpy(force=True)
        probabilities = logits.float().sigmoid().numpy(force=True)
        numbers, known_labels = ids.cpu().numpy(), labels.cpu().numpy()
        self.add(AttributePredictions(numbers, known_labels, probabilities, errors), paths)

    def rows(self, samples: AttributePredictions) -> Iterator[list[str]]:
        """Return the probability of each attribute, for each image."""
        for row in samples.probabilities:
            yield [f"{x:.6f}" for x in row]


class AttributeFigures(NamedTuple):
    """One attribute: figures are in [0, 1], and None where there is nothing to divide by."""

    positives: int
    """Images that have it."""
    negatives: int
    """Images that lack it; unknown ones are left out."""
    average_precision: float | None
    """None without positives."""
    accuracy: float | None
    """At a threshold of 0.5."""
    balanced_accuracy: float | None
    """The mean of both classes' accuracies; None where one does not occur."""
    majority_accuracy: float | None
    """Accuracy of always predicting the class that is more frequent in training."""
    threshold: float
    """The stored threshold."""
    accuracy_at_threshold: float | None
    balanced_accuracy_at_threshold: float | None
    precision_at_threshold: float | None
    recall_at_threshold: float | None


class Means(NamedTuple):
    """Means over those attributes for which a figure is defined; None where it is for none."""

    images: int
    mean_ap: float | None
    mean_accuracy: float | None
    mean_balanced_accuracy: float | None
    mean_accuracy_at_threshold: float | None
    mean_balanced_accuracy_at_threshold: float | None
    majority_mean_accuracy: float | None
    majority_mean_ap: float | None
    """The share of positives, which any constant prediction gets."""


class AttributeResult(NamedTuple):
    """The measures of an evaluation."""

    dataset: str
    means: Means
    per_attribute: dict[str, AttributeFigures]
    groups: dict[str, dict[str, Means]]
    """Sensitive attribute -> "yes" and "no" -> the other attributes, on those images alone."""
    landmark_error: float | None
    """Mean distance of the five landmarks as a share of the distance between the eyes."""
    curves: dict[str, Curve]

    @property
    def without_ap(self) -> list[str]:
        """Attributes that no image has: their average precision is undefined."""
        return [name for name, row in self.per_attribute.items() if not row.positives]

    def to_json(self) -> str:
        """Return the measures as JSON, without the curves."""
        content = {
            "dataset": self.dataset,
            **self.means._asdict(),
            "without_ap": self.without_ap,
            "landmark_error": self.landmark_error,
            "groups": {
                name: {group: means._asdict() for group, means in parts.items()}
                for name, parts in self.groups.items()
            },
            "per_attribute": {name: row._asdict() for name, row in self.per_attribute.items()},
        }
        return json.dumps(content, indent=1) + "\n"


def measure(
    predictions: AttributePredictions,
    attributes: Sequence[str],
    dataset: str,
    thresholds: Mapping[str, float] | None = None,
    groups: Sequence[str] = (),
    training_counts: np.ndarray | None = None,
) -> AttributeResult:
    """Measure predictions.

    Args:
        predictions: Of N faces.
        attributes: A names.
        dataset: The name to report.
        thresholds: Attribute -> the least probability of "yes"; 0.5 for those not named.
        groups: Sensitive attributes: figures are also given for those that have and lack them.
            Names that are no attributes are ignored.
        training_counts: (A, 2), training images that lack and have each attribute, which decide
            the majority. None takes the measured images' own.

    Raises:
        DataError: No label is known.
    """
    if not (predictions.labels != UNKNOWN).any():
        raise DataError(f"{dataset}: no label is known, so nothing can be measured")
    counts = label_counts(predictions.labels) if training_counts is None else training_counts
    majority = counts[:, 1] > counts[:, 0]
    figures, curves = _figures(predictions, attributes, thresholds or {}, majority)
    split: dict[str, dict[str, Means]] = {}
    for name in groups:
        if name not in attributes:
            continue
        column = predictions.labels[:, list(attributes).index(name)]
        split[name] = {}
        for group, value in (("yes", 1), ("no", 0)):
            rows = column == value
            part = AttributePredictions(*(field[rows] for field in predictions))
            if rows.any():
                own, _ = _figures(part, attributes, thresholds or {}, majority)
                own.pop(name)  # in its own group an attribute is always or never there
                split[name][group] = _means(own, int(rows.sum()))
    errors = predictions.landmark_errors[np.isfinite(predictions.landmark_errors)]
    error = float(errors.mean()) if len(errors) else None
    means = _means(figures, len(predictions.ids))
    return AttributeResult(dataset, means, figures, split, error, curves)


def _figures(
    predictions: AttributePredictions,
    attributes: Sequence[str],
    thresholds: Mapping[str, float],
    majority: np.ndarray,
) -> tuple[dict[str, AttributeFigures], dict[str, Curve]]:
    figures, curves = {}, {}
    for column, name in enumerate(attributes):
        labels = predictions.labels[:, column]
        known = labels != UNKNOWN
        scores, positive = predictions.probabilities[known, column], labels[known] == 1
        points = curve(scores, positive) if known.any() else None
        if points is not None:
            curves[name] = points
        threshold = thresholds.get(name, DEFAULT_THRESHOLD)
        plain = decide(scores, positive, DEFAULT_THRESHOLD)
        chosen = decide(scores, positive, threshold)
        yes = int(positive.sum())
        no = len(positive) - yes
        figures[name] = AttributeFigures(
            positives=yes, negatives=no,
            average_precision=None if points is None else average_precision(points),
            accuracy=plain.accuracy, balanced_accuracy=plain.balanced_accuracy,
            majority_accuracy=share(yes if majority[column] else no, yes + no),
            threshold=threshold, accuracy_at_threshold=chosen.accuracy,
            balanced_accuracy_at_threshold=chosen.balanced_accuracy,
            precision_at_threshold=chosen.precision, recall_at_threshold=chosen.recall,
        )  # fmt: skip
    return figures, curves


_AVERAGED = (
    *("average_precision", "accuracy", "balanced_accuracy", "accuracy_at_threshold"),
    *("balanced_accuracy_at_threshold", "majority_accuracy"),
)


def _means(figures: Mapping[str, AttributeFigures], images: int) -> Means:
    rows = list(figures.values())
    positive = [
        share(row.positives, row.positives + row.negatives) for row in rows if row.positives
    ]
    means = (_mean([getattr(row, figure) for row in rows]) for figure in _AVERAGED)
    return Means._make([images, *means, _mean(positive)])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


_LONGEST_NAME = 24


def format_table(result: AttributeResult) -> str:
    """Format the means beside the majority's, each attribute, the hardest first, and the groups."""
    means = result.means
    lines = [
        f"Attributes of {result.dataset}: {means.images:,} images, "
        f"{len(result.per_attribute)} attributes",
        f" mean AP {_cell(means.mean_ap)} (share of positives {_cell(means.majority_mean_ap)})   "
        f"mean accuracy {_cell(means.mean_accuracy)} (majority "
        f"{_cell(means.majority_mean_accuracy)})",
        f" mean balanced accuracy {_cell(means.mean_balanced_accuracy)} at 0.5, "
        f"{_cell(means.mean_balanced_accuracy_at_threshold)} at the stored thresholds "
        f"(accuracy there {_cell(means.mean_accuracy_at_threshold)})",
    ]
    if result.landmark_error is not None:
        lines.append(f" landmarks: mean error {result.landmark_error:.4f} of the eyes' distance")
    if result.without_ap:
        lines.append(
            f" without positives, so left out of the mean AP ({len(result.without_ap)}): "
            f"{', '.join(result.without_ap)}"
        )
    lines += _attribute_lines(result)
    for name, parts in result.groups.items():
        for group, part in parts.items():
            lines.append(
                f" {name} {group:<3} {part.images:>6,} images   mean AP {_cell(part.mean_ap)}   "
                f"mean accuracy {_cell(part.mean_accuracy)} (majority "
                f"{_cell(part.majority_mean_accuracy)})   balanced "
                f"{_cell(part.mean_balanced_accuracy)}"
            )
    return "\n".join(lines) + "\n"


def by_difficulty(result: AttributeResult) -> list[tuple[str, AttributeFigures]]:
    """Return the attributes by rising average precision; those without come last."""
    rows = result.per_attribute.items()
    return sorted(rows, key=lambda row: (row[1].average_precision is None,
                                         row[1].average_precision or 0.0, row[0]))  # fmt: skip


def _attribute_lines(result: AttributeResult) -> list[str]:
    rows = by_difficulty(result)
    width = min(max(len(name) for name, _ in rows), _LONGEST_NAME)
    heads = ("positive", "AP", "accuracy", "majority", "balanced", "threshold", "precision")
    lines = [" the hardest first:", f" {'attribute':<{width}}" + "".join(f"{h:>10}" for h in heads)
             + f"{'recall':>10}"]  # fmt: skip
    for name, row in rows:
        short = name if len(name) <= width else name[: width - 1] + "…"
        measured = row.average_precision, row.accuracy, row.majority_accuracy, row.balanced_accuracy
        decided = row.precision_at_threshold, row.recall_at_threshold
        threshold = f"{row.threshold:.2f}"
        cells = f"{row.positives:,}", *map(_cell, measured), threshold, *map(_cell, decided)
        lines.append(f" {short:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
