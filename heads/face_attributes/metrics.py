"""What an attribute network is worth: each attribute, the means, by group. Free of torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.labels import UNKNOWN, label_counts
from ...datasets.files import write_atomically
from .average_precision import DEFAULT_THRESHOLD, Curve, average_precision, curve, decide, share
from .evaluator import AttributePredictions


class AttributeFigures(NamedTuple):
    """One attribute: figures are in [0, 1], and None where there is nothing to divide by."""

    positives: int
    """Pictures that have it."""
    negatives: int
    """Pictures that lack it; those of which nobody knows are left out."""
    average_precision: float | None
    """None without positives."""
    accuracy: float | None
    """Of yes from a probability of 0.5 on: the field's figure."""
    balanced_accuracy: float | None
    """The same, both answers weighted alike; None where one does not occur."""
    majority_accuracy: float | None
    """Of always giving the answer that is more frequent in training."""
    threshold: float
    """The stored one."""
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
    """The share of positives, which is what any constant answer gets."""


class AttributeResult(NamedTuple):
    """What an evaluation measured."""

    dataset: str
    means: Means
    per_attribute: dict[str, AttributeFigures]
    groups: dict[str, dict[str, Means]]
    """Sensitive attribute -> "yes" and "no" -> the other attributes, on those pictures alone."""
    landmark_error: float | None
    """Mean distance of the five landmarks as a share of the distance between the eyes."""
    curves: dict[str, Curve]

    @property
    def without_ap(self) -> list[str]:
        """Attributes that no picture has: their average precision is undefined."""
        return [name for name, row in self.per_attribute.items() if not row.positives]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the curves are left out."""
        return {
            "dataset": self.dataset,
            **self.means._asdict(),
            "without_ap": self.without_ap,
            "landmark_error": self.landmark_error,
            "groups": {
                name: {answer: means._asdict() for answer, means in parts.items()}
                for name, parts in self.groups.items()
            },
            "per_attribute": {name: row._asdict() for name, row in self.per_attribute.items()},
        }


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
        thresholds: Attribute -> the probability from which on it is said to be there; 0.5 for
            those that are not named.
        groups: Sensitive attributes: figures are given apart for those that have and lack them.
            Names that are no attributes are left aside.
        training_counts: (A, 2), training pictures that lack and have each attribute: they say
            which answer is the majority's. None takes the measured pictures' own.

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
        for answer, value in (("yes", 1), ("no", 0)):
            rows = column == value
            part = AttributePredictions(*(field[rows] for field in predictions))
            if rows.any():
                own, _ = _figures(part, attributes, thresholds or {}, majority)
                own.pop(name)  # in its own group an attribute is always or never there
                split[name][answer] = _means(own, int(rows.sum()))
    errors = predictions.landmark_errors
    known = np.isfinite(errors)
    return AttributeResult(
        dataset,
        _means(figures, len(predictions.ids)),
        figures,
        split,
        float(errors[known].mean()) if known.any() else None,
        curves,
    )


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
            positives=yes,
            negatives=no,
            average_precision=None if points is None else average_precision(points),
            accuracy=plain.accuracy,
            balanced_accuracy=plain.balanced_accuracy,
            majority_accuracy=share(yes if majority[column] else no, yes + no),
            threshold=threshold,
            accuracy_at_threshold=chosen.accuracy,
            balanced_accuracy_at_threshold=chosen.balanced_accuracy,
            precision_at_threshold=chosen.precision,
            recall_at_threshold=chosen.recall,
        )
    return figures, curves


def _means(figures: Mapping[str, AttributeFigures], images: int) -> Means:
    rows = list(figures.values())
    return Means(
        images,
        _mean([row.average_precision for row in rows]),
        _mean([row.accuracy for row in rows]),
        _mean([row.balanced_accuracy for row in rows]),
        _mean([row.accuracy_at_threshold for row in rows]),
        _mean([row.balanced_accuracy_at_threshold for row in rows]),
        _mean([row.majority_accuracy for row in rows]),
        _mean(
            [share(row.positives, row.positives + row.negatives) for row in rows if row.positives]
        ),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def write_metrics(path: Path, result: AttributeResult) -> None:
    """Write the result as JSON (``attribute_metrics.json``), atomically."""
    write_atomically(path, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
