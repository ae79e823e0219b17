"""Measures of one attribute: average precision, accuracies, thresholds."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Criterion = Literal["accuracy", "balanced_accuracy", "f1"]
"""The measure that a threshold maximizes."""

FEWEST = 10
"""With fewer images of yes or of no, the threshold stays at 0.5."""
DEFAULT_THRESHOLD = 0.5


class Curve(NamedTuple):
    """Precision and recall at K falling thresholds, one for each distinct score."""

    thresholds: np.ndarray
    """(K,) float64: "yes" is a score of at least this."""
    true_positives: np.ndarray
    """(K,) int64."""
    false_positives: np.ndarray
    """(K,) int64."""

    @property
    def precision(self) -> np.ndarray:
        """(K,) float64."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        """(K,) float64; NaN without positives."""
        with np.errstate(invalid="ignore"):
            return self.true_positives / self.true_positives[-1]


def curve(scores: np.ndarray, positive: np.ndarray) -> Curve:
    """Count at every threshold of scores (N,), N at least 1; equal scores share one."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    found = np.cumsum(positive[order])[last]
    return Curve(ordered[last], found, last + 1 - found)


def average_precision(points: Curve) -> float | None:
    """Return the precision at each step of recall, weighted by the step; not interpolated.

    It is None without positives.
    """
    if not points.true_positives[-1]:
        return None
    steps = np.diff(points.recall, prepend=0.0)
    return float((steps * points.precision).sum())


class Decisions(NamedTuple):
    """The confusion matrix at one threshold; measures are None where they are 0 / 0."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def accuracy(self) -> float | None:
        """The share of correct decisions."""
        return share(self.true_positives + self.true_negatives, sum(self))

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean of the recalls of yes and of no."""
        yes = share(self.true_positives, self.true_positives + self.false_negatives)
        no = share(self.true_negatives, self.true_negatives + self.false_positives)
        return None if yes is None or no is None else (yes + no) / 2

    @property
    def precision(self) -> float | None:
        """The share of positives among the decisions for yes."""
        return share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """The share of positives decided as yes."""
        return share(self.true_positives, self.true_positives + self.false_negatives)


def decide(scores: np.ndarray, positive: np.ndarray, threshold: float) -> Decisions:
    """Count decisions for scores (N,) and positive (N,) bool; yes is at least the threshold."""
    yes = scores >= threshold
    right, wrong = int((yes & positive).sum()), int((yes & ~positive).sum())
    return Decisions(right, wrong, int((~positive).sum()) - wrong, int(positive.sum()) - right)


def choose_threshold(points: Curve, criterion: Criterion = "f1") -> float | None:
    """Return the best threshold between two scores, of equally good ones the nearest to 0.5.

    Args:
        points: A curve of scores in [0, 1].
        criterion: The measure to maximize.

    Returns:
        In [0, 1], or 1.5 where it is best never to decide for yes and a score is 1. None where
        fewer than `FEWEST` images have the attribute or lack it.
    """
    if criterion not in get_args(Criterion):
        raise ValueError(f"criterion must be one of {get_args(Criterion)}, got {criterion!r}")
    yes, no = int(points.true_positives[-1]), int(points.false_positives[-1])
    if min(yes, no) < FEWEST:
        return None
    found, wrong = (np.append(0, part) for part in points[1:])  # first: never yes
    if criterion == "accuracy":
        value = found + no - wrong
    elif criterion == "balanced_accuracy":
        value = found / yes + (no - wrong) / no
    else:
        value = 2 * found / (found + wrong + yes)
    above = 1.0 if points.thresholds[0] < 1.0 else 2.0  # never yes, even to a score of 1
    edges = np.concatenate([[above], points.thresholds, [0.0]])
    between = (edges[:-1] + edges[1:]) / 2
    best = between[value >= value.max() - 1e-12]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def stored_thresholds(names: Iterable[str], metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the threshold of each attribute from a checkpoint's metadata."""
    stored = metadata.get("thresholds") or {}
    return {name: float(stored.get(name, DEFAULT_THRESHOLD)) for name in names}


def share(part: float, whole: float) -> float | None:
    """Return a quotient, None where there is nothing to divide by."""
    return part / whole if whole else None
