"""Blending the faces of a training batch (mixup, Zhang et al. 2018, arXiv 1710.09412)."""

import numpy as np
import torch
from torch import Tensor

from ...datasets.faces.labels import UNKNOWN
from ...datasets.types import AttributeBatch


class FaceMixup:
    """Weighted sums of two faces of a batch, of their labels and of their landmarks.

    A teacher is asked about the blend itself, so it has to be a network. What is drawn depends on
    the seed that is handed in alone, so a resumed run repeats it.

    Args:
        alpha: Parameter of the Beta distribution that the weight of a batch is drawn from.
        p: Chance that a batch is blended at all.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, alpha: float = 0.2, p: float = 1.0) -> None:
        if alpha <= 0 or not 0 <= p <= 1:
            raise ValueError(f"alpha={alpha} must be above 0, p={p} in [0, 1]")
        self.alpha = alpha
        self.p = p

    def __call__(self, batch: AttributeBatch, seed: tuple[int, ...]) -> AttributeBatch:
        """Blend each face with the one before it, or leave the batch as it is.

        Args:
            batch: As it was loaded.
            seed: Numbers, at least 0, that say which draw this is, such as step and process.

        Returns:
            Pictures (B, 3, H, W) float32 in [0, 255] and labels (B, A) float32 in [0, 1], -1 where
            one of the two is not known; landmarks likewise, NaN there. Identities, ids and paths
            are left as they were.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return batch
        share = float(rng.beta(self.alpha, self.alpha))

        def blend(values: Tensor) -> Tensor:
            return torch.lerp(values.roll(1, dims=0), values, share)

        known = (batch.labels != UNKNOWN) & (batch.labels.roll(1, dims=0) != UNKNOWN)
        return batch._replace(
            images=blend(batch.images.float()),
            labels=blend(batch.labels.float()).masked_fill(~known, UNKNOWN),
            landmarks=blend(batch.landmarks),
        )
