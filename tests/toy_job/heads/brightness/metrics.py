"""The measure: the mean absolute error over all images, under any number of processes."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mobilevision.heads.distributed import SampleEvaluator


class Predictions(NamedTuple):
    """Predictions for N images."""

    ids: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


class BrightnessResult(NamedTuple):
    """The result of an evaluation."""

    images: int
    mean_absolute_error: float


class BrightnessEvaluator(SampleEvaluator[Predictions]):
    """Collect predictions batch by batch and measure them once all are there."""

    columns = ("truth", "predicted")

    def rows(self, samples: Predictions) -> Iterable[tuple[float, float]]:
        """Return the cells of each image."""
        return zip(samples.truth.tolist(), samples.predicted.tolist(), strict=True)

    def compute(self) -> BrightnessResult:
        """Gather, then measure."""
        samples = self.gather()
        error = np.abs(samples.truth - samples.predicted).mean()
        return BrightnessResult(len(samples.ids), float(error))
