"""Collects embeddings batch by batch, under any number of processes, and measures them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.sources import Faces
from .verification import VerificationResult, verify_pairs

if TYPE_CHECKING:
    from torch import Tensor


class EmbeddingEvaluator:
    """Gathers the embeddings of a set of faces.

    Args:
        faces: The set; its positions are the ids.
    """

    def __init__(self, faces: Faces) -> None:
        self.faces = faces
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, ids: "Tensor", embeddings: "Tensor") -> None:
        """Add a batch: ids (B,) int64, embeddings (B, D) float."""
        self._parts.append((ids.numpy(force=True), embeddings.float().numpy(force=True)))

    def gather(self) -> tuple[np.ndarray, np.ndarray]:
        """Give every process the embeddings of all; call it on all of them.

        Returns:
            Positions (M,) int64, rising, each once, and their embeddings (M, D) float32.

        Raises:
            DataError: There are none.
        """
        import torch.distributed as dist

        parts = self._parts
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, parts)
            parts = [part for theirs in everyone for part in theirs]
        if not parts:
            raise DataError(f"{self.faces.name}: no faces were embedded")
        ids, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
        kept, first = np.unique(ids, return_index=True)  # Lightning pads with duplicates
        return kept, rows[first]

    @property
    def progress(self) -> str:
        """How many faces came so far."""
        seen = sum(len(ids) for ids, _ in self._parts)
        return f"{seen:,} of {len(self.faces.files):,} faces of {self.faces.name} were embedded"

    def compute(self) -> VerificationResult | None:
        """Gather, then measure; call it on all processes, which get the same result.

        Returns:
            The measures; None where only some of the faces were embedded (a limited or trial run).

        Raises:
            DataError: The faces have no pairs.
        """
        ids, rows = self.gather()
        if self.faces.pairs is None:
            raise DataError(f"{self.faces.name}: has no pairs, so nothing can be verified")
        if len(ids) < len(self.faces.files):
            return None
        return verify_pairs(rows, self.faces.pairs, self.faces.name, self.faces.identities)
