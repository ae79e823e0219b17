"""Decoding of logits to positions with calibrated radii. numpy but for the first step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ...datasets.geolocation.cells import NO_CELL, Partition
from ...datasets.geolocation.geodesy import (
    ANTIPODE_KM,
    EARTH_RADIUS_KM,
    distance_km,
    to_latlng_deg,
    unit_vectors,
)
from ..distributed import all_gather, merge_by_id

if TYPE_CHECKING:
    from torch import Tensor

Answer = Literal["cell", "mode"]
"""``cell``: the mean position of the photos of the most probable cell (not the cell's center).
``mode``: the densest point, for probability that is spread over many small cells."""

MODE_KM = 50.0
"""Width of the kernel that smooths the probability before the mode is taken."""
HELD = (0.5, 0.9)
"""Probability within each of the two radii."""
_CANDIDATES = 128
_SPREAD_CELLS = 64
_POINTS = 64
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


class Places(NamedTuple):
    """Predictions for B photos."""

    latlng_deg: np.ndarray
    """(B, 2) float64."""
    cells: np.ndarray
    """(B,) int64, the most probable cell of the last partition."""
    scores: np.ndarray
    """(B,) float64, its probability."""
    radii_km: np.ndarray
    """(B, 2) float64: radii that should hold the true position with 50 % and 90 %."""


def cell_scores(logits: "Sequence[Tensor]", parents: "Sequence[Tensor]" = ()) -> "Tensor":
    """Return the log-probabilities (B, C) float32 of the cells of the last partition.

    With several partitions, coarse before fine, the product of the probabilities of a cell and
    of all that hold it, divided by the sum over the cells (Müller-Budack et al. 2018, Section
    3.3). For each partition but the last, ``parents`` (C_last,) int64 are the cells there that
    hold each.
    """
    import torch

    scores = torch.log_softmax(logits[-1].float(), dim=1)
    for coarse, holder in zip(logits[:-1], parents, strict=True):
        scores = scores + torch.log_softmax(coarse.float(), dim=1)[:, holder.to(coarse.device)]
    return torch.log_softmax(scores, dim=1)


class Decoder:
    """Decodes probabilities over the cells of a partition into places.

    The mass of a cell is spread around the mean position of its photos, normally and as widely as
    they are.

    Args:
        partition: The cells.
        answer: See ``Answer``.
        levels: Mass within each of the two radii; see ``Calibration``.
    """

    def __init__(
        self, partition: Partition, answer: Answer = "cell", levels: Sequence[float] = HELD
    ) -> None:
        self.partition = partition
        self.answer = answer
        self.levels = tuple(levels)
        self._vectors = unit_vectors(partition.latlng_deg)

    def __call__(self, probabilities: np.ndarray) -> Places:
        """Return the places of probabilities (B, C) that sum to 1 for each photo."""
        cells = probabilities.argmax(axis=1)
        vectors = self._predicted(probabilities)
        radii = []
        for row, vector in zip(probabilities, vectors, strict=True):
            reached, mass = self._reach(row, vector)
            radii.append(np.interp(self.levels, mass, reached))
        return Places(
            to_latlng_deg(vectors),
            cells,
            probabilities[np.arange(len(cells)), cells].astype(np.float64),
            np.array(radii).reshape(-1, len(self.levels)),
        )

    def masses(self, probabilities: np.ndarray, latlng_deg: np.ndarray) -> np.ndarray:
        """Return the mass (B,) nearer to each prediction than a position, such as the true one.

        A position lies in the radius of a mass if and only if its own mass is not larger.
        Probabilities (B, C) sum to 1 for each photo; positions are (B, 2) degrees.
        """
        vectors = self._predicted(probabilities)
        away_km = distance_km(to_latlng_deg(vectors), latlng_deg)
        rows = zip(away_km, probabilities, vectors, strict=True)
        masses = [np.interp(km, *self._reach(row, vector)) for km, row, vector in rows]
        return np.array(masses).reshape(-1)

    def _predicted(self, probabilities: np.ndarray) -> np.ndarray:
        """Return unit vectors (B, 3) to the predicted positions."""
        if self.answer == "cell":
            return self._vectors[probabilities.argmax(axis=1)]
        return np.array([self._mode(row) for row in probabilities]).reshape(-1, 3)

    def _mode(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the mean (3,) of the cells around the densest, by probability and nearness."""
        rows = np.argsort(-probabilities, kind="stable")[:_CANDIDATES]
        weights, vectors = probabilities[rows], self._vectors[rows]
        near = np.exp(-0.5 * (_arc_km(vectors @ vectors.T) / MODE_KM) ** 2)
        densest = int((near @ weights).argmax())
        mean = (near[densest] * weights) @ vectors
        return mean / np.linalg.norm(mean)

    def _reach(
        self, probabilities: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rising distances (M,) from a place, and the mass (M,) within each.

        The mass of the most probable cells is put on points around the mean position of their
        photos, at the quantiles of a normal distribution as wide as they are spread; that of each
        other cell on one point. Between the points it rises evenly, and at the antipode it is 1.
        """
        weights = np.asarray(probabilities, np.float64)
        away = _arc_km(self._vectors @ vector)
        spread = self.partition.spread_km
        order = np.arange(len(weights))
        if len(weights) > _SPREAD_CELLS:
            order = np.argpartition(-weights, _SPREAD_CELLS)
        main, others = order[:_SPREAD_CELLS], order[_SPREAD_CELLS:]
        around = _spread_distances(away[main], spread[main])
        points = np.concatenate([around.ravel(), np.hypot(away[others], spread[others])])
        share = np.repeat(weights[main] / _POINTS, _POINTS)
        mass = np.concatenate([share, weights[others]])
        order = np.argsort(points)
        mass = mass[order] / mass.sum()
        within = np.cumsum(mass) - mass / 2  # half of a point's own mass counts
        reached = np.minimum(points[order], ANTIPODE_KM)
        return np.r_[0.0, reached, ANTIPODE_KM], np.r_[0.0, within, 1.0]


def _spread_distances(away_km: np.ndarray, spread_km: np.ndarray) -> np.ndarray:
    """Return the distances (K, 64) of points around K places from one ``away_km`` (K,) away.

    The points lie on a spiral of golden angles, like the seeds of a sunflower (Vogel 1979): each
    at another distance, which makes radii change smoothly, and at bearings of all kinds.
    """
    number = np.arange(_POINTS)
    # Quantiles of the distance from the center of a 2D normal distribution (Rayleigh).
    out = spread_km[:, None] * np.sqrt(-np.log1p(-(number + 0.5) / _POINTS))
    along = np.cos(number * _GOLDEN_ANGLE)
    away = away_km[:, None]
    return np.sqrt(np.maximum(away**2 + out**2 + 2 * away * out * along, 0))


def _arc_km(cosine: np.ndarray) -> np.ndarray:
    """Return great-circle distances from the products of unit vectors, good to 0.1 m nearby."""
    return EARTH_RADIUS_KM * np.arccos(np.clip(cosine, -1, 1))


LEAST_PHOTOS = 50
"""With fewer photos nothing is calibrated."""
MOST_PHOTOS = 2000
"""More would hardly improve the levels, but all their scores are kept in memory."""
_TEMPERATURES = (0.05, 20.0)
_STEPS = 24
_GOLDEN = (5**0.5 - 1) / 2


class Calibration(NamedTuple):
    """Calibration of probabilities and radii."""

    temperature: float = 1.0
    """Divides the scores (log-probabilities)."""
    levels: tuple[float, ...] = HELD
    """Mass within the radii so that they hold the shares ``HELD`` of the photos."""
    photos: int = 0
    """Photos that it was measured on."""
    dataset: str = ""
    """Dataset of these photos."""

    @classmethod
    def from_plain(cls, plain: dict[str, Any] | None) -> "Calibration":
        """Return the calibration in a checkpoint's metadata, or for None a neutral one."""
        return cls() if plain is None else cls(**{**plain, "levels": tuple(plain["levels"])})

    def to_plain(self) -> dict[str, Any]:
        """Return plain data for the metadata of a checkpoint, and for JSON."""
        return {**self._asdict(), "levels": list(self.levels)}

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, C) of scores (B, C)."""
        shifted = (scores - scores.max(axis=1, keepdims=True)) / self.temperature
        weights = np.exp(shifted)
        return weights / weights.sum(axis=1, keepdims=True)


class _Part(NamedTuple):
    ids: np.ndarray
    truth_deg: np.ndarray
    scores: np.ndarray


class CalibrationPhotos:
    """Keeps the scores of some photos of an evaluation: all, or every n-th by their ids.

    The data has ``photos``, with ids from 0; at ``most`` so many are kept.
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
        part = merge_by_id([part for parts in all_gather(self._parts) for part in parts])
        return part.truth_deg, part.scores


class Calibrated(NamedTuple):
    """A calibration and the radii that it gives."""

    calibration: Calibration
    coverage: tuple[float, ...]
    """Share of the photos in each radius, cross-fitted: the levels are of the other half."""
    radii_km: np.ndarray
    """(K, 2) float64."""


def calibrate(
    scores: np.ndarray, truth_deg: np.ndarray, partition: Partition, answer: Answer, dataset: str
) -> Calibrated | None:
    """Measure a calibration on validation photos; None for fewer than ``LEAST_PHOTOS``.

    ``scores`` are (K, C) log-probabilities, ``truth_deg`` (K, 2) true positions.
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
    """Return the temperature with the least negative log-likelihood, from 0.05 to 20.

    ``scores`` are (N, C) log-probabilities, ``cells`` (N,) int64 the cell of each photo; those
    without one are left out.
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
    """Return the mass that holds a new photo with at least the probability ``share``, at most 1.

    The k-th smallest of the masses (N,), k = ceil((N + 1) share): of N + 1 exchangeable photos
    the new one is equally likely at any rank (split conformal prediction).
    """
    rank = int(np.ceil((len(masses) + 1) * share))
    return float(np.sort(masses)[rank - 1]) if rank <= len(masses) else 1.0


def cross_fitted_coverage(masses: np.ndarray, shares: Sequence[float] = HELD) -> tuple[float, ...]:
    """Return the share of photos in each radius, by levels of the half that they are not in.

    ``masses`` (N,), N at least 2, are those of ``Decoder.masses``, ``shares`` the target of
    each radius.
    """
    even, odd = masses[::2], masses[1::2]
    coverage = []
    for share in shares:
        held = [even <= conformal_level(odd, share), odd <= conformal_level(even, share)]
        coverage.append(float(np.concatenate(held).mean()))
    return tuple(coverage)
