"""What an embedder says about faces, and how alike two embeddings are. Free of torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...heads.face_embedding.verification import VERIFICATION_FACTS


class Face(NamedTuple):
    """One face of a picture."""

    box: np.ndarray
    """(4,) float32, xyxy in px of the original picture, EXIF rotation applied."""
    landmarks: np.ndarray
    """(5, 2) float32, x and y in px: eyes, nose, corners of the mouth, as seen in the picture left
    before right."""
    score: float
    """Of the detection, in [0, 1]."""
    embedding: np.ndarray
    """(D,) float32 of unit length."""


class Verification(NamedTuple):
    """Whether two faces are of one person."""

    same: bool
    """Whether the similarity reaches the threshold."""
    similarity: float
    """Cosine of the two embeddings, in [-1, 1]."""
    threshold: float
    """Least similarity of one person."""
    far: float | None
    """Share of pairs of different people that reach the threshold, as measured with it; None where
    the threshold was given by the caller."""


class Threshold(NamedTuple):
    """Where the line between one person and two is drawn, and how it was measured."""

    similarity: float
    """Least cosine of one person."""
    far: float
    """Share of pairs of different people that reached it."""


class Analysis(NamedTuple):
    """What a network of both face jobs says of B faces."""

    embeddings: np.ndarray
    """(B, D) float32 of unit length."""
    probabilities: np.ndarray
    """(B, A) float32."""


def measured_threshold(facts: Mapping[str, Any]) -> Threshold | None:
    """The threshold in a checkpoint's plain facts or a file's details; None where not measured."""
    measured = facts.get(VERIFICATION_FACTS) or {}
    if measured.get("threshold") is None or measured.get("far") is None:
        return None
    return Threshold(float(measured["threshold"]), float(measured["far"]))


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of embeddings, in [-1, 1]; 1 is the same direction.

    Args:
        a: (..., D) floats of any length but zero.
        b: (..., D), of a shape that broadcasts with the first: (D,) with (N, D) is one against
            many, (N, 1, D) with (M, D) is all against all.

    Returns:
        (...) float32.

    Raises:
        DataError: The embeddings are not of one dimension, or one has length zero or is not finite.
    """
    first, second = (np.asarray(value, dtype=np.float64) for value in (a, b))
    if first.ndim == 0 or second.ndim == 0 or first.shape[-1] != second.shape[-1]:
        raise DataError(
            f"embeddings of shapes {first.shape} and {second.shape}: the last sizes have to be the "
            "same. Embeddings of different models cannot be compared."
        )
    lengths = [np.linalg.norm(value, axis=-1) for value in (first, second)]
    for length in lengths:
        if not (np.isfinite(length) & (length > 0)).all():
            raise DataError("an embedding has length zero or is not finite: make it anew")
    cosine = (first * second).sum(axis=-1) / (lengths[0] * lengths[1])
    return cosine.clip(-1, 1).astype(np.float32)
