"""Learning from a teacher, besides from labels (Hinton et al. 2015, arXiv 1503.02531).

A ``Distillation`` is a teacher (see ``heads.teachers``) and an objective that compares what teacher
and student say. The objectives are pure and know no job: a classifier uses ``SoftTargets``,
attributes that are present or not use ``SoftLabels``, and what a job adds for its own outputs only
has to be a ``DistillationObjective``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..datasets.errors import DataError
from .teachers import Teacher


class DistillationObjective(ABC):
    """Compares student and teacher, picture by picture.

    A base class and not a protocol: the command line takes a protocol with a ``__call__`` for a
    function.
    """

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a loss (B,) float32 of what both say, (B, D) float32 each; the smaller the nearer.

        The gradient goes to ``student``.
        """


class SoftTargets(DistillationObjective):
    """The teacher's class probabilities at a raised temperature (Hinton et al. 2015, Section 2).

    The Kullback-Leibler divergence, which is 0 where both agree and has the gradient of the paper's
    cross entropy, times the temperature's square, so that the gradient keeps its size.

    Args:
        temperature: Divides the logits of both.
        weight: Factor of the loss.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, temperature: float = 4.0, weight: float = 1.0) -> None:
        self.temperature, self.weight = _checked(temperature, weight)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss (B,) of logits (B, C)."""
        ours = F.log_softmax(student / self.temperature, dim=1)
        theirs = F.log_softmax(teacher / self.temperature, dim=1)
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        return self.weight * self.temperature**2 * divergence


class SoftLabels(DistillationObjective):
    """The same for D labels that are present or not, each by itself; the mean over them.

    Args:
        temperature: Divides the logits of both.
        weight: Factor of the loss.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, temperature: float = 1.0, weight: float = 1.0) -> None:
        self.temperature, self.weight = _checked(temperature, weight)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss (B,) of logits (B, D), one for each label."""
        student, teacher = student / self.temperature, teacher / self.temperature
        ours = torch.stack([F.logsigmoid(student), F.logsigmoid(-student)])
        theirs = torch.stack([F.logsigmoid(teacher), F.logsigmoid(-teacher)])
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=0)
        return self.weight * self.temperature**2 * divergence.mean(dim=1)


class Distillation:
    """A teacher and how the student follows it.

    It is no part of the student: neither checkpoints nor the optimiser know it.

    Args:
        teacher: What says what is right, for instance ``ModelTeacher`` or ``CachedTeacher``.
        objective: How both are compared; None is ``SoftTargets()``.
        label_weight: Factor of the loss of the labels beside it; 0 learns from the teacher alone.
            Hinton et al. found a considerably lower weight on the labels best.

    Raises:
        ValueError: label_weight is negative.
    """

    def __init__(
        self,
        teacher: Teacher,
        objective: DistillationObjective | None = None,
        label_weight: float = 1.0,
    ) -> None:
        if label_weight < 0:
            raise ValueError(f"label_weight={label_weight} must be at least 0")
        self.teacher = teacher
        self.objective = objective or SoftTargets()
        self.label_weight = label_weight

    def prepare(
        self,
        num_outputs: int,
        device: torch.device,
        files: Sequence[str] | None = None,
        blended: bool = False,
    ) -> None:
        """Read the teacher, once, when training starts.

        Args:
            num_outputs: D, how many numbers it has to give for a picture.
            device: Where the student is.
            files: All training pictures, for teachers that have to know them; None where that is
                not known.
            blended: Whether training pictures are blends of several, which have no file.

        Raises:
            DataError: The teacher answers by file, and there are blends.
            WeightsError: The teacher cannot be read or does not fit the student.
        """
        if blended and not self.teacher.sees_pictures:
            raise DataError(
                "a table has no answers for blends of two pictures. Name a network as the teacher "
                "(distillation.teacher), or leave the blending out (model.mix, model.mixup)."
            )
        self.teacher.prepare(num_outputs, device, files)

    def __call__(self, student: Tensor, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"teacher": scalar}``, the mean over the pictures that the teacher knows.

        Args:
            student: (B, D), what the student says.
            images: (B, 3, H, W) uint8 or float in [0, 255], RGB, what the student saw.
            paths: B files they come from.
        """
        with torch.no_grad():
            teacher = self.teacher(images, paths).float()
        known = teacher.isfinite().all(dim=1)
        losses = self.objective(student.float(), teacher.masked_fill(~known[:, None], 0.0))
        return {"teacher": losses.masked_fill(~known, 0.0).sum() / known.sum().clamp_min(1)}


def _checked(temperature: float, weight: float) -> tuple[float, float]:
    if temperature <= 0 or weight < 0:
        raise ValueError(f"temperature={temperature} must be above 0, weight={weight} at least 0")
    return temperature, weight
