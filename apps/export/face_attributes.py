"""Attribute networks: a probability for each attribute of a face."""

from typing import Any, cast

from torch import Tensor, nn

from ...heads.face_attributes.measures import stored_thresholds
from ...heads.face_attributes.model import AttributeHead, AttributeOutput
from ...heads.face_attributes.task import AttributeTask
from .facts import ModelFacts
from .folding import for_export
from .jobs import Job

_OUTPUTS = {
    "logits": "(batch, attributes) float32",
    "probabilities": "(batch, attributes) float32: their sigmoid, one for each attribute",
}
_LANDMARKS = "(batch, 5, 2) float32: x and y as shares of the crop's width and height"
PREPARATION = (
    "faces with hair, hat and neck as CelebA's aligned pictures show them, uint8 RGB "
    "(batch, height, width, 3)"
)


class AttributeAnswers(nn.Module):
    """An attribute network and its sigmoid.

    Args:
        network: (B, 3, h, w) uint8 to ``AttributeOutput``; it is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = for_export(network)

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``: logits, probabilities, and landmarks where the network says them."""
        return answers_of(self.network(pixels))


def deploy(task: AttributeTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``."""
    outputs = outputs_of(cast(AttributeHead, task.network.head))
    thresholds = stored_thresholds(task.categories.values(), task.facts)
    facts = ModelFacts(
        "face_attributes", size_hw, dict(task.categories), outputs, thresholds, PREPARATION
    )
    return Job(AttributeAnswers(task.network), facts)


def answers_of(said: AttributeOutput) -> tuple[Tensor, ...]:
    """Logits, probabilities, and landmarks where the network says them."""
    logits = said.logits.float()
    answers = (logits, logits.sigmoid())
    return answers if said.landmarks is None else (*answers, said.landmarks.float())


def outputs_of(head: AttributeHead) -> dict[str, str]:
    """What ``answers_of`` returns: name -> what it holds."""
    points = {} if head.points is None else {"landmarks": _LANDMARKS}
    return {**_OUTPUTS, **points}
