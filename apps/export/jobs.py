"""Which job a checkpoint is for, and what a job has to offer to be exported."""

from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from ...datasets.errors import DataError
from ...heads.task import ImageTask
from .facts import ModelFacts

_JOBS = {
    "DetectionTask": "detection",
    "ClassificationTask": "classification",
    "AttributeTask": "face_attributes",
    "FaceEmbeddingTask": "face_embedding",
    "FacesTask": "faces",
    "GeolocationTask": "geolocation",
}
"""Class of a task -> the module of this folder that deploys it."""


class Answers(Protocol):
    """The part of a deployed network that differs between jobs: pictures to named outputs."""

    def __call__(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:
        """Return the outputs.

        Args:
            pixels: (B, 3, h, w) uint8, of the network's size.
            picture_hw: Height and width of the pictures before they were resized.
        """
        ...


class Job(NamedTuple):
    """What a job's module makes of a task."""

    answers: nn.Module
    """Follows ``Answers``."""
    facts: ModelFacts
    """All but provenance and licence."""


class JobModule(Protocol):
    """What each module of ``_JOBS`` offers."""

    def deploy(self, task: Any, size_hw: tuple[int, int]) -> Job:
        """Make what is exported of a task."""
        ...


def job_of(task: ImageTask) -> JobModule:
    """Return the module that deploys a task.

    Raises:
        DataError: There is none.
    """
    for base in type(task).__mro__:
        if base.__name__ in _JOBS:
            return cast(JobModule, import_module(f".{_JOBS[base.__name__]}", __package__))
    raise DataError(
        f"{type(task).__name__} is no task that can be exported: {', '.join(_JOBS)} are."
    )
