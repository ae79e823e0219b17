"""Face verification: the measures of LFW and others. Free of torch.

Two faces are called the same where the cosine of their embeddings is at least a threshold; the
rates are those of ``far_frr.py``.
"""

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.pairs import Pairs
from ...datasets.faces.sources import Faces
from ..distributed import SampleEvaluator
from .fairness import GroupResult, format_groups
from .far_frr import (
    THRESHOLDS,
    AllPairs,
    Roc,
    all_against_all,
    area_under,
    equal_error_rate,
    normalized,
    power_of_ten,
    roc_curve,
    threshold_at_far,
)
from .threshold import Threshold

if TYPE_CHECKING:
    from torch import Tensor

VAL_FAR = 1e-3
_PARTS = ("roc", "all_pairs", "groups")


@dataclass(frozen=True)
class VerificationResult:
    """The measures of a list of pairs.

    Attributes:
        dataset: Name of the faces.
        pairs: Number of pairs.
        impostor_pairs: Number of pairs of different people.
        folds: Number of folds.
        accuracy: Mean over the folds, each at the threshold that is best on the others; the lowest
            of those that are equally good.
        std: Standard deviation of the folds' accuracies (of the population).
        threshold: Best on all pairs, the middle of those that are equally good; what a model is
            used with.
        far: False accept rate at that threshold, over all pairs.
        val: Mean over the folds of VAL at the threshold that has FAR 1e-3 on the others; None
            where they are too few.
        val_std: Its standard deviation.
        val_far: The FAR that those thresholds reached on their own folds, mean.
        auc: Area under the ROC curve of all pairs.
        eer: Where false accepts and false rejects are equal.
        roc: That curve.
        all_pairs: Every face against every other, if requested.
        groups: The same within groups, if requested.
    """

    dataset: str
    pairs: int
    impostor_pairs: int
    folds: int
    accuracy: float
    std: float
    threshold: float
    far: float
    val: float | None
    val_std: float | None
    val_far: float | None
    auc: float
    eer: float
    roc: Roc = field(repr=False)
    all_pairs: AllPairs | None = None
    groups: GroupResult | None = None

    def to_json(self) -> str:
        """Return the measures as JSON, without the curve: the content of ``verification.json``."""
        names = {f.name: f.name for f in fields(self)} | {"val": "val_at_far_1e-3"}
        parts = {"all": self.all_pairs, "groups": self.groups}
        content = {names[name]: getattr(self, name) for name in names if name not in _PARTS}
        content |= {name: part.to_dict() for name, part in parts.items() if part is not None}
        return json.dumps(content, indent=1) + "\n"


def score_pairs(embeddings: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the cosine (P,) float64 of each pair's embeddings (N, D)."""
    rows = normalized(embeddings)
    return np.einsum("pd,pd->p", rows[pairs.first], rows[pairs.second], dtype=np.float64)


def verify_pairs(
    embeddings: np.ndarray,
    pairs: Pairs,
    dataset: str = "faces",
    identities: np.ndarray | None = None,
) -> VerificationResult:
    """Measure embeddings by a list of pairs, in the protocol of LFW (Huang et al. 2007).

    ``embeddings`` (N, D) are of any length but zero. With ``identities`` (N,) int, -1 for
    unknown, every face is compared with every other, too.

    Raises:
        DataError: An embedding is not finite, or see `measure_scores`.
    """
    if not np.isfinite(embeddings).all():
        row = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise DataError(f"{dataset}: embedding {row} has NaN or infinity")
    everyone = None if identities is None else all_against_all(embeddings, identities)
    scores = score_pairs(embeddings, pairs)
    return measure_scores(scores, pairs.same, pairs.folds, dataset, everyone)


def measure_scores(
    scores: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    dataset: str = "faces",
    all_pairs: AllPairs | None = None,
) -> VerificationResult:
    """Measure scores (P,) in [-1, 1] of pairs, the more alike the higher; see ``verify_pairs``.

    ``same`` (P,) bool tells pairs of one person, ``folds`` (P,) int their fold; ``all_pairs``
    becomes part of the result.

    Raises:
        DataError: There is only one fold, or one without a kind of pair.
    """
    numbers = np.unique(folds)
    kinds = [same[folds == fold] for fold in numbers]
    if len(numbers) < 2 or not all(kind.any() and not kind.all() for kind in kinds):
        raise DataError(
            f"{dataset}: {len(numbers)} folds. The threshold of a fold is chosen on the others, so "
            "at least two are needed, each with pairs of one person and of two."
        )
    right = np.stack([_right_answers(scores[folds == fold], same[folds == fold])
                      for fold in numbers])  # fmt: skip
    sizes = np.array([len(kind) for kind in kinds])
    chosen = [int(np.argmax(right.sum(axis=0) - row)) for row in right]
    accuracies = right[np.arange(len(numbers)), chosen] / sizes
    threshold = float(THRESHOLDS[_best(right.sum(axis=0))])
    roc = roc_curve(scores, same)
    val, val_std, val_far = _val(scores, same, folds)
    return VerificationResult(
        dataset=dataset, pairs=len(scores), impostor_pairs=int((~same).sum()), folds=len(numbers),
        accuracy=float(accuracies.mean()), std=float(accuracies.std()), threshold=threshold,
        far=float((scores[~same] >= threshold).mean()), val=val, val_std=val_std, val_far=val_far,
        auc=area_under(roc), eer=equal_error_rate(roc), roc=roc, all_pairs=all_pairs,
    )  # fmt: skip


def _best(right: np.ndarray) -> int:
    """Return the middle of the first run of best thresholds: its edges are scores of pairs."""
    first = int(np.argmax(right))
    worse = np.flatnonzero(right[first:] < right[first])
    return first + (int(worse[0]) - 1) // 2 if len(worse) else (first + len(right) - 1) // 2


def _right_answers(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return how many pairs each of ``THRESHOLDS`` classifies correctly, (T,) int."""
    accepted = same.sum() - np.searchsorted(np.sort(scores[same]), THRESHOLDS)
    return accepted + np.searchsorted(np.sort(scores[~same]), THRESHOLDS)


def _val(
    scores: np.ndarray, same: np.ndarray, folds: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    values, fars = [], []
    for fold in np.unique(folds):
        own = folds == fold
        impostors = scores[~own & ~same]
        threshold = threshold_at_far(impostors, len(impostors), VAL_FAR)
        if threshold is None:
            return None, None, None
        values.append((scores[own & same] >= threshold).mean())
        fars.append((scores[own & ~same] >= threshold).mean())
    return float(np.mean(values)), float(np.std(values)), float(np.mean(fars))


def format_table(result: VerificationResult) -> str:
    """Format the measures as text."""
    val = "too few pairs" if result.val is None else f"{result.val:.4f} ± {result.val_std:.4f}"
    lines = [
        f"Verification on {result.dataset}: {result.pairs:,} pairs in {result.folds} folds",
        f" accuracy         {result.accuracy:.4f} ± {result.std:.4f}",
        f" VAL at FAR 1e-3  {val}",
        f" AUC {result.auc:.4f}   EER {result.eer:.4f}",
        f" threshold {result.threshold:.3f}: FAR {result.far:.4f} of {result.impostor_pairs:,} "
        "impostor pairs",
    ]
    everyone = result.all_pairs
    if everyone is not None:
        lines.append(
            f"All against all: {everyone.images:,} faces of {everyone.people:,} people, "
            f"{everyone.same_pairs:,} pairs of one person, {everyone.impostor_pairs:,} impostor "
            "pairs"
        )
        for row in everyone.at:
            tar = "too few pairs" if row.tar is None else f"{row.tar:.4f}"
            limit = "" if row.threshold is None else f" (threshold {row.threshold:.3f})"
            lines.append(f" TAR at FAR {power_of_ten(row.far)}  {tar}{limit}")
    if result.groups is not None:
        lines += format_groups(result.groups)
    return "\n".join(lines) + "\n"


def threshold_metadata(result: VerificationResult) -> dict[str, Any]:
    """Return the metadata of a measurement for a checkpoint, see `Threshold`.

    The groups are left out if they were measured at another threshold.
    """
    names = ("pairs", "accuracy")
    metadata: dict[str, Any] = {name: getattr(result, name) for name in names}
    if result.all_pairs is not None:
        metadata["all"] = result.all_pairs.to_dict()
    groups = result.groups
    same = groups is not None and groups.threshold == result.threshold
    measured = Threshold(
        result.threshold, result.far, result.dataset, result.impostor_pairs,
        groups.named if groups is not None and same else None,
    )  # fmt: skip
    return metadata | measured.to_metadata()


class _Embeddings(NamedTuple):
    ids: np.ndarray
    """(M,) int64."""
    embeddings: np.ndarray
    """(M, D) float32."""


class EmbeddingEvaluator(SampleEvaluator[_Embeddings]):
    """Collects the embeddings of a set of faces.

    Args:
        faces: The set; its positions are the ids.
    """

    def __init__(self, faces: Faces) -> None:
        super().__init__(faces.name)
        self.faces = faces

    def update(self, ids: "Tensor", embeddings: "Tensor") -> None:
        """Add a batch: ids (B,) int64, embeddings (B, D) float."""
        self.add(_Embeddings(ids.numpy(force=True), embeddings.float().numpy(force=True)))

    @property
    def progress(self) -> str:
        """The number of faces so far, as text."""
        seen = sum(len(ids) for ids, _ in self._parts)
        return f"{seen:,} of {len(self.faces.files):,} faces of {self.faces.name} were embedded"

    def compute(self) -> VerificationResult | None:
        """Gather, then measure; call it on all processes, which get the same result.

        It is None where only some of the faces were embedded (a limited or trial run), and
        a DataError if the faces have no pairs.
        """
        ids, rows = self.gather()
        if self.faces.pairs is None:
            raise DataError(f"{self.faces.name}: has no pairs, so nothing can be verified")
        if len(ids) < len(self.faces.files):
            return None
        return verify_pairs(rows, self.faces.pairs, self.faces.name, self.faces.identities)
