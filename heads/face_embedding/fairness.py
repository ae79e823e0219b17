"""Error rates of a face network within groups of people. Free of torch.

Within a group every face is compared with every other, at one threshold for all groups.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .far_frr import THRESHOLDS, Roc, compare_all, equal_error_rate, normalized

LEAST_PAIRS = 100
"""With fewer pairs of a kind there is no rate."""
GROUPS = {"yes": 1, "no": 0}
"""Names of the groups of an attribute, and their label."""
EVERYONE = "all"
"""Name of all faces together."""


class GroupRates(NamedTuple):
    """Error rates among the faces of a group; None where pairs are too few."""

    faces: int
    people: int
    genuine: int
    """Pairs of one person."""
    impostors: int
    """Pairs of two people."""
    far: float | None
    """False accept rate: share of the impostor pairs that are accepted."""
    frr: float | None
    """False reject rate: share of the genuine pairs that are rejected."""
    accuracy: float | None = None
    """Both kinds of pairs weighted equally."""
    eer: float | None = None
    """Equal error rate, at a threshold of the group's own; in steps of 0.001."""


class GroupResult(NamedTuple):
    """Error rates of groups at one threshold."""

    threshold: float
    origin: str
    """Origin of the threshold, in words."""
    everyone: GroupRates
    by_attribute: dict[str, dict[str, GroupRates]]
    """Attribute -> "yes" and "no" -> pairs of which both faces have it, or both lack it."""

    @property
    def named(self) -> dict[str, GroupRates]:
        """The rates of ``all`` and of each group, which is called ``Male: yes`` or the like."""
        parts = self.by_attribute.items()
        groups = {f"{name}: {has}": rates for name, both in parts for has, rates in both.items()}
        return {EVERYONE: self.everyone, **groups}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "threshold": self.threshold,
            "threshold_origin": self.origin,
            "all": self.everyone._asdict(),
            "by_attribute": {
                name: {group: rates._asdict() for group, rates in parts.items()}
                for name, parts in self.by_attribute.items()
            },
        }


def measure_groups(
    embeddings: np.ndarray,
    identities: np.ndarray,
    labels: Mapping[str, np.ndarray],
    threshold: float,
    origin: str,
    least_pairs: int = LEAST_PAIRS,
) -> GroupResult:
    """Measure error rates of the faces that have and of those that lack each attribute.

    Args:
        embeddings: (N, D), finite, of any length but zero.
        identities: (N,) int; faces with -1 take no part.
        labels: Attribute -> (N,) int: 1 yes, 0 no, anything else not known.
        threshold: Least cosine of one person.
        origin: Origin of the threshold, in words.
        least_pairs: With fewer pairs of a kind there is no rate.
    """
    rows = normalized(embeddings)

    def measured(chosen: np.ndarray) -> GroupRates:
        kept = chosen & (identities >= 0)
        return _rates(rows[kept], identities[kept], threshold, least_pairs)

    by_attribute = {
        name: {group: measured(column == label) for group, label in GROUPS.items()}
        for name, column in labels.items()
    }
    everyone = measured(np.ones(len(rows), dtype=bool))
    return GroupResult(threshold, origin, everyone, by_attribute)


def _rates(rows: np.ndarray, owners: np.ndarray, threshold: float, least: int) -> GroupRates:
    accepted = np.zeros(2, np.int64)  # impostors, genuine
    reached = np.zeros((2, len(THRESHOLDS) + 1), np.int64)  # pairs by the thresholds they reach
    for pairs in compare_all(rows, owners):
        for kind, scores in enumerate((pairs.impostors, pairs.genuine)):
            accepted[kind] += np.count_nonzero(scores >= threshold)
            steps = np.searchsorted(THRESHOLDS, scores, side="right")
            reached[kind] += np.bincount(steps, minlength=reached.shape[1])
    impostors, genuine = reached.sum(axis=1).tolist()
    far = float(accepted[0] / impostors) if impostors >= max(least, 1) else None
    frr = float(1 - accepted[1] / genuine) if genuine >= max(least, 1) else None
    accuracy = eer = None
    if far is not None and frr is not None:
        accuracy = 1 - (far + frr) / 2
        rising = reached[:, ::-1].cumsum(axis=1) / reached.sum(axis=1, keepdims=True)
        curve = np.concatenate([np.zeros((2, 1)), rising], axis=1)
        limits = np.concatenate([[np.inf], THRESHOLDS[::-1], [-np.inf]])
        eer = equal_error_rate(Roc(curve[0], curve[1], limits))
    people = len(np.unique(owners))
    return GroupRates(len(rows), people, genuine, impostors, far, frr, accuracy, eer)


def format_groups(result: GroupResult) -> list[str]:
    """Format the rates of everyone and of each group as lines of text."""
    rows = result.named
    width = max(len(name) for name in rows)
    head = f" {'':{width}}  faces people    genuine    impostors    FAR    FRR  accuracy    EER"
    lines = [f"Within groups, at the threshold {result.threshold:.3f} ({result.origin}):", head]
    for name, row in rows.items():
        far, frr, accuracy, eer = (
            "-" if rate is None else f"{rate:.4f}"
            for rate in (row.far, row.frr, row.accuracy, row.eer)
        )
        lines.append(
            f" {name:{width}} {row.faces:6,} {row.people:6,} {row.genuine:10,} {row.impostors:12,} "
            f"{far:>6} {frr:>6}    {accuracy:>6} {eer:>6}"
        )
    lines.append(" Accuracy weights both kinds of pairs alike. A dash: too few pairs.")
    return lines
