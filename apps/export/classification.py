"""Classifiers: a probability for each class."""

from typing import Any

from torch import Tensor, nn

from ...heads.classification.task import ClassificationTask
from .facts import ModelFacts
from .folding import for_export
from .jobs import Job

_OUTPUTS = {
    "logits": "(batch, classes) float32",
    "probabilities": "(batch, classes) float32: their softmax",
}


class ClassifierAnswers(nn.Module):
    """A classifier and its softmax.

    Args:
        network: (B, 3, h, w) uint8 to logits (B, C); it is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = for_export(network)

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``: logits and probabilities."""
        logits = self.network(pixels).float()
        return logits, logits.softmax(dim=1)


def deploy(task: ClassificationTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``."""
    facts = ModelFacts("classification", size_hw, dict(task.categories), dict(_OUTPUTS))
    return Job(ClassifierAnswers(task.network), facts)
