"""Which job a checkpoint is for, and what a job has to offer to be exported."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
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

    def load(self, path: Path) -> ImageTask:
        """Rebuild the task of a checkpoint on the CPU; whatever it raises is explained."""
        ...

    def deploy(self, task: Any, size_hw: tuple[int, int]) -> Job:
        """Make what is exported of a task."""
        ...


def load_task(task: type[ImageTask]) -> Callable[[Path], ImageTask]:
    """What rebuilds tasks of a class that need nothing special."""

    def load(path: Path) -> ImageTask:
        return task.load_from_checkpoint(path, map_location="cpu", weights_only=True)

    return load


def job_of(path: Path, checkpoint: Any) -> JobModule:
    """Return the module that deploys a checkpoint's task.

    Raises:
        DataError: It does not say what its task is, or that cannot be exported.
    """
    plain = checkpoint if isinstance(checkpoint, dict) else {}
    hyper_parameters = plain.get("hyper_parameters") or {}
    named = hyper_parameters.get("_class_path")
    if "state_dict" not in plain or not named or not hyper_parameters.get("network"):
        raise DataError(
            f"{path}: does not say what its network is made of: it holds weights alone, or was "
            "trained from Python with objects. Give a checkpoint of `lightning fit` or "
            "`mobilevision import`."
        )
    module, _, name = str(named).rpartition(".")
    try:
        task = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: its task {named} cannot be imported: {error}") from error
    for base in task.__mro__:
        if base.__name__ in _JOBS:
            return cast(JobModule, import_module(f".{_JOBS[base.__name__]}", __package__))
    raise DataError(f"{path}: {named} is no task that can be exported: {', '.join(_JOBS)} are.")
