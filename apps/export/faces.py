"""Networks of both face jobs: an embedding and the attributes of each face, from one pass."""

from typing import Any, cast

from torch import Tensor, nn

from ...heads.face_attributes.measures import stored_thresholds
from ...heads.face_attributes.model import AttributeHead
from ...heads.faces import FacesTask
from . import face_attributes, face_embedding
from .facts import ModelFacts
from .folding import for_export
from .jobs import Job


class FacesAnswers(nn.Module):
    """A network of both face jobs and what either job makes of its answers.

    Args:
        network: (B, 3, h, w) uint8 to ``FacesOutput``; it is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = for_export(network)

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``: embeddings, then what attribute networks answer."""
        said = self.network(pixels)
        return said.embeddings.float(), *face_attributes.answers_of(said.attributes)


def deploy(task: FacesTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``; the thresholds of both jobs travel along."""
    head = cast(AttributeHead, task.network.attributes)
    facts = ModelFacts(
        "faces",
        size_hw,
        dict(task.categories),
        {**face_embedding.OUTPUTS, **face_attributes.outputs_of(head)},
        stored_thresholds(task.categories.values(), task.facts),
        face_attributes.PREPARATION,
        face_embedding.measured_details(task.facts),
    )
    return Job(FacesAnswers(task.network), facts)
