"""False accept and true accept rates of face verification. Free of torch.

- FAR, false accept rate: the share of pairs of different people that are called the same.
- TAR, true accept rate: the share of pairs of one person that are called the same. Schroff et al.
  (2015, "FaceNet", Section 4) call them VAL and FAR.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

THRESHOLDS = np.round(np.linspace(-1, 1, 2001), 3)
"""The thresholds of LFW's protocol."""
ALL_FARS = (1e-3, 1e-4)
_BLOCK = 512


class Roc(NamedTuple):
    """An ROC curve, thresholds falling. The first point accepts nothing."""

    far: np.ndarray
    """(T,) float64, rising from 0 to 1."""
    tar: np.ndarray
    """(T,) float64, rising from 0 to 1."""
    thresholds: np.ndarray
    """(T,) float64, the first infinite; a score at the threshold is accepted."""


class Compared(NamedTuple):
    """Scores of pairs of faces of one person and of two people, (P,) float32 each."""

    genuine: np.ndarray
    impostors: np.ndarray


class TarAtFar(NamedTuple):
    """The true accept rate at a false accept rate."""

    far: float
    tar: float | None
    """None where there are too few impostor pairs (less than one would be accepted)."""
    threshold: float | None


@dataclass(frozen=True)
class AllPairs:
    """Every face against every other."""

    images: int
    people: int
    same_pairs: int
    impostor_pairs: int
    at: tuple[TarAtFar, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        names = ("images", "people", "same_pairs", "impostor_pairs")
        counts = {name: getattr(self, name) for name in names}
        return counts | {f"tar_at_far_{power_of_ten(row.far)}": row.tar for row in self.at} | {
            f"threshold_at_far_{power_of_ten(row.far)}": row.threshold for row in self.at
        }  # fmt: skip


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings (N, D) at unit length, float32; one of length zero stays zero."""
    rows = np.asarray(embeddings, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def threshold_at_far(impostors: np.ndarray, count: int, far: float) -> float | None:
    """Return the lowest threshold with a false accept rate of at most ``far``, in (0, 1).

    ``impostors`` are the scores of the ``count`` pairs of different people, or the highest of
    them. The result is None where less than one pair would be accepted.
    """
    allowed = int(far * count * (1 + 1e-12))
    if allowed < 1:
        return None
    if allowed >= len(impostors):
        return float(impostors.min())
    refused = np.partition(impostors, len(impostors) - allowed - 1)[-allowed - 1]
    return float(np.nextafter(refused, np.inf))


def roc_curve(scores: np.ndarray, same: np.ndarray) -> Roc:
    """Return both rates at every distinct score (P,); ``same`` (P,) bool has both kinds."""
    order = np.argsort(-scores, kind="stable")
    ranked, truth = scores[order], same[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
    accepted = np.cumsum(truth)[last]
    tar = np.append(0.0, accepted / truth.sum())
    far = np.append(0.0, (last + 1 - accepted) / (~truth).sum())
    return Roc(far, tar, np.append(np.inf, ranked[last]))


def area_under(roc: Roc) -> float:
    """Return the area under an ROC curve."""
    return float(np.trapezoid(roc.tar, roc.far))


def equal_error_rate(roc: Roc) -> float:
    """Return the rate where false accepts equal false rejects, interpolated linearly."""
    gap = roc.far - (1 - roc.tar)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    step = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(roc.far[after - 1] + step * (roc.far[after] - roc.far[after - 1]))


def compare_all(rows: np.ndarray, owners: np.ndarray) -> Iterator[Compared]:
    """Compare all unit vectors (N, D), of people (N,) int, once; yield cosines block by block."""
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        scores = rows[start:stop] @ rows[start:].T
        upper = np.arange(len(rows) - start) > np.arange(stop - start)[:, None]
        same = owners[start:stop, None] == owners[start:]
        yield Compared(scores[upper & same], scores[upper & ~same])


def all_against_all(
    embeddings: np.ndarray, identities: np.ndarray, fars: tuple[float, ...] = ALL_FARS
) -> AllPairs | None:
    """Compare every face with every other once, in blocks, and count exactly.

    The pairs are not independent, since a face takes part in many. Faces of the identity -1
    take no part. The result is None where a kind of pair is missing.
    """
    known = np.flatnonzero(identities >= 0)
    rows, owners = normalized(embeddings[known]), identities[known]
    _, sizes = np.unique(owners, return_counts=True)
    total = len(known) * (len(known) - 1) // 2
    genuine_count = int((sizes * (sizes - 1) // 2).sum())
    impostor_count = total - genuine_count
    if not genuine_count or not impostor_count:
        return None
    kept = int(max(fars) * impostor_count) + 2
    genuine: list[np.ndarray] = []
    highest = np.empty(0, np.float32)
    for pairs in compare_all(rows, owners):
        genuine.append(pairs.genuine)
        highest = np.concatenate([highest, pairs.impostors])
        if len(highest) > kept:  # no threshold lies below these
            highest = np.partition(highest, len(highest) - kept)[-kept:]
    found = np.concatenate(genuine)
    thresholds = [threshold_at_far(highest, impostor_count, far) for far in fars]
    at = tuple(
        TarAtFar(far, None if limit is None else float((found >= limit).mean()), limit)
        for far, limit in zip(fars, thresholds, strict=True)
    )
    return AllPairs(len(known), len(sizes), genuine_count, impostor_count, at)


def power_of_ten(far: float) -> str:
    """Format a rate as in names, such as 1e-3."""
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
