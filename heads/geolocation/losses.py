"""Losses over cells: of a photo's own cell, or of all cells by their distance."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...datasets.geolocation.cells import NO_CELL
from ...datasets.geolocation.geodesy import pairwise_km


def smoothed_labels(distances_km: Tensor, tau_km: float) -> Tensor:
    """Return label probabilities (B, C) that fall with the distances (B, C) in km.

    Haversine smoothing (Haas et al. 2024, "PIGEON", Section 3.2): proportional to
    exp(-(d_i - d_own) / tau), here divided by their sum, which makes the choice of ``d_own``
    indifferent.
    """
    return torch.softmax(-distances_km / tau_km, dim=1)


class CellLoss(nn.Module):
    """Cross entropy over the cells of each partition.

    Args:
        tau_km: None takes the one cell that holds a photo as label, as PlaNet does; photos in no
            cell are ignored. A number smooths the labels over cells nearby; PIGEON takes 65 to 75.
            Photos in no cell then count, too.

    Raises:
        ValueError: tau_km is not positive.
    """

    def __init__(self, tau_km: float | None = None) -> None:
        super().__init__()
        if tau_km is not None and tau_km <= 0:
            raise ValueError(f"tau_km={tau_km} must be positive, or null for one cell a photo")
        self.tau_km = tau_km

    def forward(
        self,
        logits: Sequence[Tensor],
        cells: Sequence[Tensor],
        photos: Tensor,
        centers: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return the mean loss of each partition: ``cells``, or ``cells_0`` and so on.

        Each partition has logits (B, C), the cells (B,) int64 of the photos, -1 for none,
        and the mean positions of its cells, ``centers`` (C, 3); ``photos`` (B, 3) are the
        true positions. Positions are unit vectors, float32.
        """
        losses = {}
        for index, (scores, own, places) in enumerate(zip(logits, cells, centers, strict=True)):
            name = "cells" if len(logits) == 1 else f"cells_{index}"
            losses[name] = self._one(scores.float(), own, photos, places)
        return losses

    def _one(self, logits: Tensor, own: Tensor, photos: Tensor, centers: Tensor) -> Tensor:
        if self.tau_km is not None:
            labels = smoothed_labels(pairwise_km(photos, centers), self.tau_km)
            total = functional.cross_entropy(logits, labels, reduction="sum")
            return total / max(1, len(logits))
        total = functional.cross_entropy(logits, own, ignore_index=NO_CELL, reduction="sum")
        return total / (own != NO_CELL).sum().clamp(min=1)
