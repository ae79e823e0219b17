"""How sure answers may be: what validation photos say about probabilities and radii.

Training makes probabilities too sharp. One temperature for the scores of all cells mends most of it
(Guo et al. 2017, "On Calibration of Modern Neural Networks"). What is left is mended where it
matters: each radius has to hold the mass that held the asked share of the validation photos. That
is split conformal prediction (Vovk et al. 2005) with the mass nearer to the answer than the truth
as its score, much as Romano et al. 2020 sum up the mass of classes ("adaptive prediction sets").
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .cells import NO_CELL, Partition
from .decoding import HELD, Answer, Decoder
from .gathering import all_gather, merge_by_id

LEAST_PHOTOS = 50
"""Fewer say too little; the probabilities are then taken as they are."""
MOST_PHOTOS = 2000
"""More would make the levels hardly better, but all their scores have to be kept."""
_TEMPERATURES = (0.05, 20.0)
_STEPS = 24
_GOLDEN = (5**0.5 - 1) / 2


class Calibration(NamedTuple):
    """What a checkpoint knows about how far its probabilities can be trusted."""

    temperature: float = 1.0
    """What the scores (logarithms of probabilities) are divided by."""
    levels: tuple[float, ...] = HELD
    """Mass that the radii have to hold, so that they hold the shares ``HELD`` of the photos."""
    photos: int = 0
    """Photos that it was measured on."""
    dataset: str = ""
    """Their data set."""

    @classmethod
    def from_plain(cls, plain: dict[str, Any] | None) -> "Calibration":
        """Of a checkpoint's facts; None gives one that changes nothing."""
        return cls() if plain is None else cls(**{**plain, "levels": tuple(plain["levels"])})

    def to_plain(self) -> dict[str, Any]:
        """For the facts of a checkpoint, and for JSON."""
        return {**self._asdict(), "levels": list(self.levels)}

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities (B, C) of scores (B, C)."""
        shifted = (scores - scores.max(axis=1, keepdims=True)) / self.temperature
        weights = np.exp(shifted)
        return weights / weights.sum(axis=1, keepdims=True)


class _Part(NamedTuple):
    ids: np.ndarray
    truth_deg: np.ndarray
    scores: np.ndarray


class CalibrationPhotos:
    """Keeps the scores of some photos of an evaluation: all, or every n-th by their ids.

    Args:
        photos: How many the data set has; their ids are 0 to ``photos`` - 1.
        most: How many are kept at most.
    """

    def __init__(self, photos: int, most: int = MOST_PHOTOS) -> None:
        self._step = max(1, -(-photos // most))
        self._parts: list[_Part] = []

    def update(self, ids: np.ndarray, truth_deg: np.ndarray, scores: np.ndarray) -> None:
        """Add a batch: ids (B,) int64, true positions (B, 2), scores (B, C)."""
        kept = ids % self._step == 0
        self._parts.append(_Part(ids[kept], truth_deg[kept], scores[kept]))

    def gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Return true positions (K, 2) and scores (K, C) of all processes; call it on all."""
        part = merge_by_id([part for theirs in all_gather(self._parts) for part in theirs])
        return part.truth_deg, part.scores


class Calibrated(NamedTuple):
    """A calibration and what its radii are like."""

    calibration: Calibration
    coverage: tuple[float, ...]
    """Share of the photos in each radius, cross-fitted: the levels are of the other half."""
    radii_km: np.ndarray
    """(K, 2) float64, the radii of the photos."""


def calibrate(
    scores: np.ndarray, truth_deg: np.ndarray, partition: Partition, answer: Answer, dataset: str
) -> Calibrated | None:
    """Measure a calibration on photos that were not trained on.

    Args:
        scores: (K, C), logarithms of the probabilities.
        truth_deg: (K, 2) where the photos were taken.
        partition: The cells.
        answer: See ``decoding.Answer``.
        dataset: What it is measured on.

    Returns:
        The calibration; None if there are fewer than ``LEAST_PHOTOS`` photos.
    """
    if len(scores) < LEAST_PHOTOS:
        return None
    temperature = fit_temperature(scores, partition.assign(truth_deg))
    probabilities = Calibration(temperature).probabilities(scores)
    masses = Decoder(partition, answer).masses(probabilities, truth_deg)
    levels = tuple(conformal_level(masses, share) for share in HELD)
    radii_km = Decoder(partition, answer, levels=levels)(probabilities).radii_km
    calibration = Calibration(temperature, levels, len(scores), dataset)
    return Calibrated(calibration, cross_fitted_coverage(masses), radii_km)


def fit_temperature(scores: np.ndarray, cells: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood, from 0.05 to 20.

    Args:
        scores: (N, C), logarithms of probabilities.
        cells: (N,) int64, the cell of each photo; those in none say nothing.
    """
    known = cells != NO_CELL
    if not known.any():
        return 1.0
    scores = scores[known] - scores[known].max(axis=1, keepdims=True)
    own = scores[np.arange(len(scores)), cells[known]]

    def loss(log_temperature: float) -> float:
        inverse = np.float32(np.exp(-log_temperature))
        return float(np.mean(np.log(np.exp(scores * inverse).sum(axis=1)) - own * inverse))

    # It is convex in 1 / T, so it has one valley: golden-section search.
    low, high = np.log(_TEMPERATURES).tolist()
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def conformal_level(masses: np.ndarray, share: float) -> float:
    """The mass that holds a new photo with at least the probability ``share``, 1 at most.

    The k-th smallest of N masses, k = ceil((N + 1) share): of N + 1 exchangeable photos the new one
    is as likely to be at any rank.

    Args:
        masses: (N,) from ``Decoder.masses``.
        share: In (0, 1).
    """
    rank = int(np.ceil((len(masses) + 1) * share))
    return float(np.sort(masses)[rank - 1]) if rank <= len(masses) else 1.0


def cross_fitted_coverage(masses: np.ndarray, shares: Sequence[float] = HELD) -> tuple[float, ...]:
    """Share of photos in each radius whose level is measured on the half that they are not in.

    Args:
        masses: (N,) from ``Decoder.masses``, N at least 2.
        shares: What the radii should hold.
    """
    halves = masses[::2], masses[1::2]
    return tuple(
        float(
            np.mean(
                np.concatenate(
                    [halves[0] <= conformal_level(halves[1], share),
                     halves[1] <= conformal_level(halves[0], share)]
                )
            )
        )
        for share in shares
    )  # fmt: skip
