"""A trained attribute network as a teacher of smaller ones (Howard et al. 2017, Section 4.5)."""

from pathlib import Path

from torch import Tensor, nn

from ..checkpoint import load_task
from ..teachers import ModelTeacher


class _Logits(nn.Module):
    """An attribute network that says its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class AttributeTeacher(ModelTeacher):
    """An attribute network of this package, from its checkpoint.

    It sees the pictures as the student does, after augmentation.

    Args:
        checkpoint: A checkpoint of an ``AttributeTask``.
        size_hw: What pictures are resized to for it; None takes the size of its training.
    """

    def __init__(self, checkpoint: str | Path, size_hw: tuple[int, int] | None = None) -> None:
        super().__init__(nn.Identity, size_hw=size_hw)
        self.path = Path(checkpoint)
        self.attributes: tuple[str, ...] | None = None
        """What it speaks of, once it has been read."""

    def _make(self) -> nn.Module:
        from .task import AttributeTask

        task = load_task(self.path, AttributeTask)
        self.attributes = tuple(task.categories.values())
        if self.size_hw is None and "size_hw" in task.facts:
            height, width = task.facts["size_hw"]
            self.size_hw = (int(height), int(width))
        return _Logits(task.network)

    def _normalised(self, images: Tensor) -> Tensor:
        return images  # the network normalises
