"""What an attribute network says, collected batch by batch, under any number of processes.

torch is imported only where tensors arrive.
"""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class AttributePredictions(NamedTuple):
    """What was said of N faces, sorted by id, each once."""

    ids: np.ndarray
    """(N,) int64."""
    labels: np.ndarray
    """(N, A) int8: 1 yes, 0 no, -1 not known."""
    probabilities: np.ndarray
    """(N, A) float32."""
    landmark_errors: np.ndarray
    """(N,) float32, see `AttributeResult`; NaN where it is not known."""


class AttributeEvaluator:
    """Collects what a network says and measures it once all is there.

    Right under torch.distributed: pictures are told apart by id, and the duplicates with which
    Lightning pads the last batch are dropped.

    Args:
        attributes: A names.
        dataset: The name to report.
    """

    def __init__(self, attributes: Sequence[str], dataset: str) -> None:
        self.attributes = list(attributes)
        self.dataset = dataset
        self._parts: list[AttributePredictions] = []
        self._paths: dict[int, str] = {}

    def update(
        self,
        ids: "Tensor",
        labels: "Tensor",
        logits: "Tensor",
        paths: Sequence[str] = (),
        landmark_errors: "Tensor | None" = None,
    ) -> None:
        """Add a batch.

        Args:
            ids: (B,) int64, which picture of the data set.
            labels: (B, A) int8.
            logits: (B, A) float.
            paths: B files, for ``predictions.csv``.
            landmark_errors: (B,) float; None where no landmarks are said.

        Raises:
            DataError: The model has another number of attributes than the data.
            ValueError: A logit is not finite.
        """
        known = len(self.attributes)
        if logits.shape[1] != known or labels.shape[1] != known:
            raise DataError(
                f"{self.dataset}: the model has {logits.shape[1]} attributes, the data "
                f"{labels.shape[1]} and names for {known}. Evaluate on data with the model's "
                "attributes; data.attributes chooses them."
            )
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"{self.dataset}: a logit is not finite. The weights may hold NaN: has the "
                "training diverged?"
            )
        numbers = ids.cpu().numpy()
        errors = np.full(len(numbers), np.nan, dtype=np.float32)
        if landmark_errors is not None:
            errors = landmark_errors.detach().float().cpu().numpy()
        probabilities = logits.detach().float().sigmoid().cpu().numpy()
        self._parts.append(
            AttributePredictions(numbers, labels.cpu().numpy(), probabilities, errors)
        )
        self._paths.update(zip(numbers.tolist(), paths, strict=False))

    def gather(self) -> AttributePredictions:
        """Give every process the predictions of all; call it on all of them.

        Raises:
            DataError: There are none.
        """
        import torch.distributed as dist

        parts, paths = self._parts, self._paths
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, (parts, paths))
            parts = [part for theirs, _ in everyone for part in theirs]
            paths = {number: path for _, theirs in everyone for number, path in theirs.items()}
        if not parts:
            raise DataError(f"{self.dataset}: no pictures were evaluated")
        together = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        predictions = AttributePredictions(*together)
        _, first = np.unique(predictions.ids, return_index=True)
        merged = AttributePredictions(*(column[first] for column in predictions))
        self._parts, self._paths = [merged], paths
        return merged

    def to_csv(self) -> str:
        """Return a line a picture: file, then the probability of each attribute. After `gather`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", *self.attributes])
        for part in self._parts:
            for number, row in zip(part.ids.tolist(), part.probabilities, strict=True):
                writer.writerow([self._paths.get(number, number), *(f"{x:.6f}" for x in row)])
        return text.getvalue()
