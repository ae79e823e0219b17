"""From logits to places: which cell, which point, and how sure. numpy but for the first step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .cells import Partition
from .geodesy import ANTIPODE_KM, EARTH_RADIUS_KM, distance_km, to_latlng_deg, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

Answer = Literal["cell", "mode"]
"""``cell``: the mean position of the photos of the most probable cell (not the cell's centre).
``mode``: where the probability is densest, for mass that is spread over many small cells."""

MODE_KM = 50.0
"""Width of the kernel that smooths the probability before its mode is looked for."""
HELD = (0.5, 0.9)
"""Probability that the radii of an answer hold."""
_CANDIDATES = 128
_SPREAD_CELLS = 64
_POINTS = 64
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


class Places(NamedTuple):
    """Answers for B photos."""

    latlng_deg: np.ndarray
    """(B, 2) float64."""
    cells: np.ndarray
    """(B,) int64, the most probable cell of the last partition."""
    scores: np.ndarray
    """(B,) float64, its probability."""
    radii_km: np.ndarray
    """(B, 2) float64: around the answer, what should hold the truth with 50 % and 90 %."""


def cell_scores(logits: "Sequence[Tensor]", parents: "Sequence[Tensor]" = ()) -> "Tensor":
    """Logarithms (B, C) float32 of the probabilities of the cells of the last partition.

    With several partitions, the product of the probabilities of a cell and of all that hold it,
    divided by the sum over the cells (Müller-Budack et al. 2018, Section 3.3).

    Args:
        logits: For each partition (B, C), coarse before fine.
        parents: For each partition but the last (C_last,) int64, the cell there that holds each.
    """
    import torch

    scores = torch.log_softmax(logits[-1].float(), dim=1)
    for coarse, holder in zip(logits[:-1], parents, strict=True):
        scores = scores + torch.log_softmax(coarse.float(), dim=1)[:, holder.to(coarse.device)]
    return torch.log_softmax(scores, dim=1)


class Decoder:
    """Turns probabilities over the cells of a partition into places.

    The mass of a cell does not lie in one point: it is spread around the mean position of its
    photos, normally and as widely as they are.

    Args:
        partition: What is predicted.
        answer: See ``Answer``.
        mode_km: Width of the kernel of "mode".
        levels: Mass that each of the two radii has to hold; see ``calibration.Calibration``.
    """

    def __init__(
        self,
        partition: Partition,
        answer: Answer = "cell",
        mode_km: float = MODE_KM,
        levels: Sequence[float] = HELD,
    ) -> None:
        self.partition = partition
        self.answer = answer
        self.mode_km = mode_km
        self.levels = tuple(levels)
        self._vectors = unit_vectors(partition.latlng_deg)

    def __call__(self, probabilities: np.ndarray) -> Places:
        """Return the answers for probabilities (B, C) that sum to 1 for each photo."""
        cells = probabilities.argmax(axis=1)
        answers = self._answers(probabilities)
        radii = []
        for row, answer in zip(probabilities, answers, strict=True):
            reached, mass = self._reach(row, answer)
            radii.append(np.interp(self.levels, mass, reached))
        return Places(
            to_latlng_deg(answers),
            cells,
            probabilities[np.arange(len(cells)), cells].astype(np.float64),
            np.array(radii).reshape(-1, len(self.levels)),
        )

    def masses(self, probabilities: np.ndarray, latlng_deg: np.ndarray) -> np.ndarray:
        """Return the mass (B,) nearer to each answer than a position is, such as the true one.

        A position lies in the radius that holds a mass exactly if its own is not larger.

        Args:
            probabilities: (B, C), summing to 1 for each photo.
            latlng_deg: (B, 2) degrees.
        """
        answers = self._answers(probabilities)
        away_km = distance_km(to_latlng_deg(answers), latlng_deg)
        return np.array(
            [
                np.interp(km, *self._reach(row, answer))
                for km, row, answer in zip(away_km, probabilities, answers, strict=True)
            ]
        ).reshape(-1)

    def _answers(self, probabilities: np.ndarray) -> np.ndarray:
        """Unit vectors (B, 3) to what is answered."""
        if self.answer == "cell":
            return self._vectors[probabilities.argmax(axis=1)]
        return np.array([self._mode(row) for row in probabilities]).reshape(-1, 3)

    def _mode(self, probabilities: np.ndarray) -> np.ndarray:
        """Mean of the cells around the densest one, weighted by probability and nearness: (3,)."""
        rows = np.argsort(-probabilities, kind="stable")[:_CANDIDATES]
        weights, vectors = probabilities[rows], self._vectors[rows]
        near = np.exp(-0.5 * (_arc_km(vectors @ vectors.T) / self.mode_km) ** 2)
        densest = int((near @ weights).argmax())
        mean = (near[densest] * weights) @ vectors
        return mean / np.linalg.norm(mean)

    def _reach(
        self, probabilities: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances (M,) from a place, rising, and the mass (M,) that lies within each.

        The mass of the most probable cells is laid on points around the mean position of their
        photos, at the quantiles of a normal distribution as wide as they are spread; that of each
        other cell on one point. Between the points it rises evenly, and at the antipode it is 1.
        """
        weights = np.asarray(probabilities, np.float64)
        away = _arc_km(self._vectors @ vector)
        spread = self.partition.spread_km
        if len(weights) > _SPREAD_CELLS:
            order = np.argpartition(-weights, _SPREAD_CELLS)
            main, others = order[:_SPREAD_CELLS], order[_SPREAD_CELLS:]
        else:
            main, others = np.arange(len(weights)), np.arange(0)
        around = _spread_distances(away[main], spread[main])
        points = np.concatenate([around.ravel(), np.hypot(away[others], spread[others])])
        share = np.repeat(weights[main] / _POINTS, _POINTS)
        mass = np.concatenate([share, weights[others]])
        order = np.argsort(points)
        mass = mass[order] / mass.sum()
        within = np.cumsum(mass) - mass / 2
        reached = np.minimum(points[order], ANTIPODE_KM)
        return np.r_[0.0, reached, ANTIPODE_KM], np.r_[0.0, within, 1.0]


def _spread_distances(away_km: np.ndarray, spread_km: np.ndarray) -> np.ndarray:
    """Distances (K, 64) of points around K places from one that is ``away_km`` (K,).

    The points lie on a spiral of golden angles, like the seeds of a sunflower (Vogel 1979): each
    at another distance, which makes radii change smoothly, and at bearings of all kinds.
    """
    number = np.arange(_POINTS)
    out = spread_km[:, None] * np.sqrt(-np.log1p(-(number + 0.5) / _POINTS))
    along = np.cos(number * _GOLDEN_ANGLE)
    away = away_km[:, None]
    return np.sqrt(np.maximum(away**2 + out**2 + 2 * away * out * along, 0))


def _arc_km(cosine: np.ndarray) -> np.ndarray:
    """Great-circle distances of unit vectors from their products; near ones are good to 0.1 m."""
    return EARTH_RADIUS_KM * np.arccos(np.clip(cosine, -1, 1))
