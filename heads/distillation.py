"""Learning from a teacher, besides from labels (Hinton et al. 2015, arXiv 1503.02531).

A ``Distillation`` is a teacher and an objective that compares the outputs of teacher and student.
The objectives know no job: a classifier uses ``SoftTargets``, attributes that are present or not
use ``SoftLabels``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..backbone.errors import WeightsError
from ..backbone.mobilenet import normalize_pixels
from ..datasets.errors import DataError
from ..datasets.vectors import VectorTable, read_vectors

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Statistics of RGB pixels in [0, 255] for torchvision's models and most of timm's."""
_NAMED = 10


class Teacher(ABC):
    """Base of the teachers: predicts D numbers of an image, such as logits or an embedding."""

    sees_images = True
    """Whether it looks at the pixels, and so works for any image."""

    @abstractmethod
    def prepare(
        self, num_outputs: int, device: torch.device, files: Sequence[str] | None = None
    ) -> None:
        """Read the teacher; see ``Distillation.prepare``."""

    @abstractmethod
    def __call__(self, images: Tensor, paths: Sequence[str]) -> Tensor:
        """Return (B, D) float32 for images (B, 3, H, W) uint8 or float in [0, 255], of B files.

        The row of an unknown image is not finite.
        """


class ModelTeacher(Teacher):
    """Any network from images to (B, D), in evaluation mode, without gradients.

    It sees the images as the student does, after augmentation ("consistent" teaching, Beyer et
    al. 2022, "Knowledge distillation: A good teacher is patient and consistent").

    Args:
        network: Import path of the class or function that makes it, such as
            ``torchvision.models.resnet50`` or ``timm.create_model``; from Python also the callable
            itself. It is called when training starts, also where it downloads weights.
        options: Its arguments, such as ``{weights: IMAGENET1K_V2}``.
        size_hw: Images are resized to this; None leaves them.
        pixel_mean: R, G, B, subtracted from pixels in [0, 255].
        pixel_std: R, G, B, then divided by.
    """

    def __init__(
        self,
        network: str | Callable[..., nn.Module],
        options: dict[str, Any] | None = None,
        size_hw: tuple[int, int] | None = None,
        pixel_mean: tuple[float, float, float] = IMAGENET_MEAN,
        pixel_std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        self.network = network
        self.options = dict(options or {})
        self.size_hw = size_hw
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self._network: nn.Module | None = None
        self._num_outputs = 0

    def prepare(
        self,
        num_outputs: int,
        device: torch.device,
        files: Sequence[str] | None = None,  # noqa: ARG002
    ) -> None:
        """Make the network and move it to the device."""
        if self._network is None:
            self._network = self._make().eval().requires_grad_(False)
        self._network.to(device)
        self._num_outputs = num_outputs

    def _make(self) -> nn.Module:
        make = _imported(self.network) if isinstance(self.network, str) else self.network
        try:
            return make(**self.options)
        except Exception as error:  # any error of the factory is about the options
            raise WeightsError(
                f"the teacher {self.network} cannot be made with {self.options}: {error}"
            ) from error

    def __call__(self, images: Tensor, paths: Sequence[str]) -> Tensor:  # noqa: ARG002
        """See ``Teacher``."""
        if self._network is None:
            raise RuntimeError("prepare() reads the teacher and has to come first")
        pixels = images.float()
        if self.size_hw is not None and tuple(images.shape[-2:]) != tuple(self.size_hw):
            pixels = F.interpolate(pixels, self.size_hw, mode="bilinear", antialias=True)
        mean, std = (pixels.new_tensor(x)[:, None, None] for x in (self.pixel_mean, self.pixel_std))
        with torch.no_grad():
            output = self._network(normalize_pixels(pixels, mean, std))
        if output.ndim != 2 or output.shape[1] != self._num_outputs:
            shape = tuple(output.shape[1:])
            raise WeightsError(
                f"the teacher {type(self._network).__name__} gives {shape} numbers for an image, "
                f"and the student {self._num_outputs}. Take a teacher of the same classes in the "
                "same order."
            )
        return output.float()


class CachedTeacher(Teacher):
    """A table of a teacher's outputs for each file, such as `mobilevision cache-logits` writes.

    Much faster than a network, but its outputs are of the whole image, so it fits training with
    little augmentation.

    Args:
        table: ``.npz``, ``.csv`` or ``.parquet``, see ``datasets.vectors``.
        root: Folder that the table's file names are relative to; None where they are as in the
            data module.
        on_missing: ``raise`` stops where the table lacks an image; ``skip`` learns that image
            from its label alone, and counts it in a warning.
    """

    sees_images = False

    def __init__(
        self,
        table: str | Path,
        root: str | Path | None = None,
        on_missing: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.path = Path(table)
        self.root = None if root is None else Path(root)
        self.on_missing = on_missing
        self._table: VectorTable | None = None
        self._rows: dict[str, int] = {}
        self._vectors = torch.empty(0)

    def prepare(
        self, num_outputs: int, device: torch.device, files: Sequence[str] | None = None
    ) -> None:
        """Read the table and check that it has every image."""
        if self._table is None:
            self._table = read_vectors(self.path)
            self._rows = {file: row for row, file in enumerate(self._table.files.tolist())}
        self._vectors = torch.from_numpy(self._table.vectors).to(device)
        if self._vectors.shape[1] != num_outputs:
            raise WeightsError(
                f"{self.path}: has {self._vectors.shape[1]} numbers for a file, and the student "
                f"{num_outputs}. Cache a teacher of the same classes in the same order."
            )
        self._report_missing([file for file in files or () if self._key(file) not in self._rows])

    def _report_missing(self, missing: Sequence[str]) -> None:
        if not missing:
            return
        more = f", and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        message = (
            f"{self.path}: {len(missing):,} images are not in the table: "
            f"{', '.join(missing[:_NAMED])}{more}"
        )
        if self.on_missing == "raise":
            raise WeightsError(
                f"{message}. Its names look like {next(iter(self._rows), 'nothing')!r}: set root "
                "to the folder they are relative to, or on_missing=skip."
            )
        rank_zero_warn(f"{message}. They are learned from their labels alone.")

    def _key(self, file: str) -> str:
        if self.root is None:
            return file
        path = Path(file)
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def __call__(self, images: Tensor, paths: Sequence[str]) -> Tensor:
        """See ``Teacher``; images that the table lacks have rows of NaN."""
        rows = [self._rows.get(self._key(path), -1) for path in paths]
        if self.on_missing == "raise" and -1 in rows:
            self._report_missing([path for path, row in zip(paths, rows, strict=True) if row < 0])
        index = torch.tensor(rows, device=self._vectors.device)
        outputs = self._vectors[index.clamp_min(0)].float()
        return outputs.masked_fill((index < 0)[:, None], torch.nan).to(images.device)


def _imported(path: str) -> Callable[..., nn.Module]:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WeightsError(
            f"{path}: there is no such class or function ({error}). Name it by its import path, "
            "such as torchvision.models.resnet50; timm comes with the extra 'peers'."
        ) from error


class DistillationObjective(ABC):
    """Compares student and teacher, image by image.

    A base class and not a protocol, which jsonargparse would take for a function.
    """

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss (B,) float32 of the outputs of both, (B, D) float32 each."""


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
        predicted = F.log_softmax(student / self.temperature, dim=1)
        target = F.log_softmax(teacher / self.temperature, dim=1)
        divergence = F.kl_div(predicted, target, reduction="none", log_target=True).sum(dim=1)
        return self.weight * self.temperature**2 * divergence


class SoftLabels(DistillationObjective):
    """The same for D labels that are present or not, each by itself; the mean over them.

    Args:
        temperature: Divides the logits of both.
        weight: Factor of the loss.
    """

    def __init__(self, temperature: float = 1.0, weight: float = 1.0) -> None:
        self.temperature, self.weight = _checked(temperature, weight)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss (B,) of logits (B, D), one for each label."""
        student, teacher = student / self.temperature, teacher / self.temperature
        # Present and absent are two classes of each label.
        predicted = torch.stack([F.logsigmoid(student), F.logsigmoid(-student)])
        target = torch.stack([F.logsigmoid(teacher), F.logsigmoid(-teacher)])
        divergence = F.kl_div(predicted, target, reduction="none", log_target=True).sum(dim=0)
        return self.weight * self.temperature**2 * divergence.mean(dim=1)


class Distillation:
    """A teacher and an objective; neither is part of the student or of its checkpoints.

    Args:
        teacher: For instance ``ModelTeacher`` or ``CachedTeacher``.
        objective: Compares both; None is ``SoftTargets()``.
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
        """Read the teacher, once, when training starts; the student has ``num_outputs``.

        ``files`` are all training images, if they are known. ``blended`` training images
        are made of several, and have no file.

        Raises:
            DataError: The teacher is a table of files, and there are blends.
            WeightsError: The teacher cannot be read or does not fit the student.
        """
        if blended and not self.teacher.sees_images:
            raise DataError(
                "a table has no outputs for blends of two images. Name a network as the teacher "
                "(distillation.teacher), or leave the blending out (model.mix, model.mixup)."
            )
        self.teacher.prepare(num_outputs, device, files)

    def __call__(self, student: Tensor, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"teacher": scalar}``, the mean over the images that the teacher knows.

        ``student`` (B, D) are the student's outputs for ``images``; see ``Teacher`` for the
        others.
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
