"""The Python API: images of any kind in, their brightness out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mobilevision.apps.inference.predictor import ImageSource, Predictor, Prepared
from mobilevision.apps.inference.runtime import ModelMetadata

if TYPE_CHECKING:
    from torch import Tensor, nn


class BrightnessMeter(Predictor[float]):
    """Tells how bright images are, from 0 to 1."""

    job = "brightness"
    columns: ClassVar[dict[str, type]] = {"brightness": float}

    @staticmethod
    def task_class() -> Any:
        """Return the task whose checkpoints are read."""
        from toy_job.heads.brightness.task import BrightnessTask

        return BrightnessTask

    @classmethod
    def describe(cls, task: Any, size_hw: tuple[int, int]) -> ModelMetadata:  # noqa: ARG003
        """Return what an exported file says of itself."""
        return ModelMetadata(cls.job, size_hw, {}, {"brightness": "(batch,) float32 from 0 to 1"})

    @staticmethod
    def outputs(network: "nn.Module", pixels: "Tensor", *_: Any) -> "tuple[Tensor, ...]":
        """Return the outputs that ``describe`` names."""
        return (network(pixels).sigmoid(),)

    def decode(
        self,
        outputs: Mapping[str, np.ndarray],
        images: Sequence[tuple[ImageSource, Prepared]],  # noqa: ARG002
        **_: Any,
    ) -> Iterator[float]:
        """Return a number for each image."""
        return map(float, outputs["brightness"])

    def rows(self, result: float) -> list[tuple[float]]:
        """Return the row of a table."""
        return [(result,)]
