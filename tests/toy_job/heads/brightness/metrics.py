"""The measure: the mean absolute error over all images, under any number of processes."""

from typing import NamedTuple

import numpy as np

from mobilevision.heads.distributed import gather_by_id


class Predictions(NamedTuple):
    """Predictions for N images."""

    ids: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


class BrightnessResult(NamedTuple):
    """What an evaluation measured."""

    images: int
    mean_absolute_error: float


class BrightnessEvaluator:
    """Collect predictions batch by batch and measure them once all are there."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._parts: list[Predictions] = []

    def update(self, ids: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Add a batch."""
        self._parts.append(Predictions(ids, truth, predicted))

    def gather(self) -> Predictions:
        """Give every process the predictions of all."""
        merged, _ = gather_by_id(self._parts, {}, self.dataset)
        self._parts = [merged]
        return merged

    def compute(self) -> BrightnessResult:
        """Gather, then measure."""
        all_of_them = self.gather()
        error = np.abs(all_of_them.truth - all_of_them.predicted).mean()
        return BrightnessResult(len(all_of_them.ids), float(error))
