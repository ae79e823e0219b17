"""From logits to places: which cell, which point, and how sure. numpy but for the first step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .cells import Partition
from .geodesy import EARTH_RADIUS_KM, to_latlng_deg, unit_vectors

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
_RINGS = 4
_BEARINGS = 8


class Places(NamedTuple):
    """Answers for B photos."""

    latlng_deg: np.ndarray
    """(B, 2) float64."""
    cells: np.ndarray
    """(B,) int64, the most probable cell of the last partition."""
    scores: np.ndarray
    """(B,) float64, its probability."""
    radii_km: np.ndarray
    """(B, 2) float64: around the answer, what holds 50 % and 90 % of the probability."""


def cell_probabilities(logits: "Sequence[Tensor]", parents: "Sequence[Tensor]" = ()) -> "Tensor":
    """Probabilities (B, C) float32 of the cells of the last partition.

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
    return torch.softmax(scores, dim=1)


class Decoder:
    """Turns probabilities over the cells of a partition into places.

    Args:
        partition: What is predicted.
        answer: See ``Answer``.
        mode_km: Width of the kernel of "mode".
    """

    def __init__(
        self, partition: Partition, answer: Answer = "cell", mode_km: float = MODE_KM
    ) -> None:
        self.partition = partition
        self.answer = answer
        self.mode_km = mode_km
        self._vectors = unit_vectors(partition.latlng_deg)

    def __call__(self, probabilities: np.ndarray) -> Places:
        """Return the answers for probabilities (B, C) that sum to 1 for each photo."""
        cells = probabilities.argmax(axis=1)
        places, radii = [], []
        for row, best in zip(np.asarray(probabilities, np.float64), cells.tolist(), strict=True):
            vector = self._vectors[best] if self.answer == "cell" else self._mode(row)
            places.append(vector)
            radii.append(self._radii(row, vector))
        scores = probabilities[np.arange(len(cells)), cells].astype(np.float64)
        return Places(
            to_latlng_deg(np.array(places).reshape(-1, 3)),
            cells,
            scores,
            np.array(radii).reshape(-1, len(HELD)),
        )

    def _mode(self, probabilities: np.ndarray) -> np.ndarray:
        """Mean of the cells around the densest one, weighted by probability and nearness: (3,)."""
        rows = np.argsort(-probabilities, kind="stable")[:_CANDIDATES]
        weights, vectors = probabilities[rows], self._vectors[rows]
        near = np.exp(-0.5 * (_arc_km(vectors @ vectors.T) / self.mode_km) ** 2)
        densest = int((near @ weights).argmax())
        mean = (near[densest] * weights) @ vectors
        return mean / np.linalg.norm(mean)

    def _radii(self, probabilities: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Radii (2,) in km around a place that hold the shares ``HELD`` of the probability.

        The mass of a cell does not lie in one point: it is laid on rings around the mean position
        of its photos, at the quantiles of a normal distribution as wide as they are spread.
        """
        distance = _arc_km(self._vectors @ vector)[:, None, None]
        quantile = (np.arange(_RINGS) + 0.5) / _RINGS
        ring = self.partition.spread_km[:, None, None] * np.sqrt(-np.log1p(-quantile))[:, None]
        bearing = np.cos((np.arange(_BEARINGS) + 0.5) * 2 * np.pi / _BEARINGS)
        square = distance**2 + ring**2 + 2 * distance * ring * bearing
        reached = np.sqrt(np.maximum(square, 0)).reshape(len(probabilities), -1)
        mass = np.repeat(probabilities / reached.shape[1], reached.shape[1])
        order = np.argsort(reached, axis=None)
        held = np.cumsum(mass[order])
        at = np.searchsorted(held, np.array(HELD) * held[-1])
        return np.minimum(reached.ravel()[order][at], np.pi * EARTH_RADIUS_KM)


def _arc_km(cosine: np.ndarray) -> np.ndarray:
    """Great-circle distances of unit vectors from their products; near ones are good to 0.1 m."""
    return EARTH_RADIUS_KM * np.arccos(np.clip(cosine, -1, 1))
