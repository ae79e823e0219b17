"""Face networks: an embedding for each aligned face."""

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...heads.face_embedding.task import VERIFICATION_FACTS, FaceEmbeddingTask
from .facts import ModelFacts
from .folding import for_export
from .jobs import Job, load_task

_OUTPUTS = {"embeddings": "(batch, dimension) float32 of unit length"}
_PREPARATION = (
    "faces aligned by five landmarks to ArcFace's template, uint8 RGB (batch, height, width, 3)"
)


class EmbeddingAnswers(nn.Module):
    """A face network and the length of its embeddings.

    Args:
        network: (B, 3, h, w) uint8 to (B, D); it is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = for_export(network)

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``: embeddings."""
        return (F.normalize(self.network(pixels).float(), dim=1),)


load = load_task(FaceEmbeddingTask)


def deploy(task: FaceEmbeddingTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``; the measured threshold is among the details."""
    measured = task.facts.get(VERIFICATION_FACTS)
    facts = ModelFacts(
        "face_embedding", size_hw, {}, dict(_OUTPUTS), preparation=_PREPARATION,
        details={} if measured is None else {VERIFICATION_FACTS: measured},
    )  # fmt: skip
    return Job(EmbeddingAnswers(task.network), facts)
