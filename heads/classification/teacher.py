"""A trained classifier as a teacher of smaller ones."""

from pathlib import Path

from torch import Tensor, nn

from ..checkpoint import load_task
from ..teachers import ModelTeacher
from .task import ClassificationTask


class CheckpointTeacher(ModelTeacher):
    """A classifier of this package, trained or imported, from its checkpoint.

    Args:
        checkpoint: A checkpoint of a ``ClassificationTask``.
        size_hw: What pictures are resized to for it; None leaves them.
    """

    def __init__(self, checkpoint: str | Path, size_hw: tuple[int, int] | None = None) -> None:
        super().__init__(nn.Identity, size_hw=size_hw)
        self.path = Path(checkpoint)

    def _make(self) -> nn.Module:
        return load_task(self.path, ClassificationTask).network

    def _normalised(self, images: Tensor) -> Tensor:
        return images  # the network normalises
