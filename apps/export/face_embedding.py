"""Face networks: an embedding for each aligned face."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...heads.face_embedding.task import FaceEmbeddingTask
from ...heads.face_embedding.verification import VERIFICATION_FACTS
from .facts import ModelFacts
from .folding import for_export
from .jobs import Job

OUTPUTS = {"embeddings": "(batch, dimension) float32 of unit length"}
_PREPARATION = (
    "faces aligned by five landmarks to ArcFace's template, uint8 RGB (batch, height, width, 3)"
)


class EmbeddingAnswers(nn.Module):
    """A face network.

    Args:
        network: (B, 3, h, w) uint8 to (B, D) of unit length; it is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = for_export(network)

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``: embeddings."""
        return (self.network(pixels).float(),)


def deploy(task: FaceEmbeddingTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``; the measured threshold is among the details."""
    facts = ModelFacts(
        "face_embedding", size_hw, {}, dict(OUTPUTS), preparation=_PREPARATION,
        details=measured_details(task.facts),
    )  # fmt: skip
    return Job(EmbeddingAnswers(task.network), facts)


def measured_details(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's plain facts that says how two faces are told apart."""
    measured = stored.get(VERIFICATION_FACTS)
    return {} if measured is None else {VERIFICATION_FACTS: measured}
