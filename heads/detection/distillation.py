"""Distillation of a detector from a larger one (Hinton et al. 2015).

Chen et al. 2017 ("Learning Efficient Object Detection Models with Knowledge Distillation") carried
the idea over to detectors: soft classes everywhere, boxes where the teacher sees an object.
"""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...backbone.errors import WeightsError
from ..checkpoint import load_task
from ..distillation import SoftLabels, SoftTargets
from .boxes import ScoreActivation, SSDOutput
from .task import DetectionTask


class SSDDistillation:
    """Distills an SSD from another SSD with the same anchors and classes, anchor by anchor.

    The teacher may have another backbone, width, predictor or loss. It is no part of the student or
    of its checkpoints, and sees the images as the student does, after augmentation.

    Args:
        teacher: A checkpoint of a ``DetectionTask``, trained or imported. Read when training
            starts and never when a checkpoint of the student is loaded.
        class_weight: Factor of the loss of the classes.
        box_weight: Factor of the loss of the boxes.
        temperature: Divides the logits; the loss is multiplied by its square, so that gradients
            keep their size (Hinton et al. 2015, section 2).
        min_score: The teacher sees an object where a class reaches this score in [0, 1].

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        teacher: str | Path,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        temperature: float = 1.0,
        min_score: float = 0.3,
    ) -> None:
        if class_weight < 0 or box_weight < 0 or temperature <= 0 or not 0 <= min_score <= 1:
            raise ValueError(
                f"class_weight={class_weight}, box_weight={box_weight} must be at least 0, "
                f"temperature={temperature} above 0, min_score={min_score} in [0, 1]"
            )
        self.path = Path(teacher)
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.temperature = temperature
        self.min_score = min_score
        self._teacher: nn.Module | None = None
        self._compared = False

    def prepare(self, student: nn.Module, categories: dict[int, str], device: torch.device) -> None:
        """Read the teacher to the device of the student, an ``SSD`` of these categories.

        Raises:
            WeightsError: The file is absent or no checkpoint of a detector, or the teacher has
                other classes or another kind of scores than the student.
        """
        if self._teacher is None:
            self._teacher = self._load(student, categories)
        self._teacher.to(device)

    def _load(self, student: nn.Module, categories: dict[int, str]) -> nn.Module:
        task = load_task(self.path, DetectionTask)
        if list(task.categories.items()) != list(categories.items()):
            raise WeightsError(
                f"{self.path}: this teacher knows {_shown(task.categories)}, and the student "
                f"learns {_shown(categories)}. Take a teacher that was trained on the same classes "
                "in the same order."
            )
        network = task.network
        activations = [getattr(each, "score_activation", None) for each in (network, student)]
        if None in activations or activations[0] != activations[1]:
            raise WeightsError(
                f"{self.path}: the teacher is a {type(network).__name__} with {activations[0]} "
                f"scores, and the student a {type(student).__name__} with {activations[1]} scores. "
                "Both have to be SSDs with the same score_activation."
            )
        return network.eval().requires_grad_(False)

    def __call__(self, images: Tensor, output: SSDOutput) -> dict[str, Tensor]:
        """Return ``{"soft_classes": scalar, "soft_boxes": scalar}`` for a batch of the student's.

        These are sums over all anchors and over those where the teacher sees an object,
        divided by the number of the latter in the batch, at least 1.
        """
        if self._teacher is None:
            raise RuntimeError("prepare() reads the teacher and has to come first")
        with torch.no_grad():
            taught = cast(SSDOutput, self._teacher(images))
            scores = self._teacher.scores(taught)  # type: ignore[operator]
        self._compare(taught.anchors, output.anchors)
        seen = scores.amax(dim=-1) >= self.min_score
        activation = cast(ScoreActivation, self._teacher.score_activation)
        classes = soft_class_losses(
            output.class_logits.float(), taught.class_logits.float(), activation, self.temperature
        )
        boxes = F.smooth_l1_loss(
            output.box_deltas.float(), taught.box_deltas.float(), reduction="none"
        ).sum(dim=-1)
        count = seen.sum().clamp_min(1)
        return {
            "soft_classes": self.class_weight * classes.sum() / count,
            "soft_boxes": self.box_weight * boxes.masked_fill(~seen, 0.0).sum() / count,
        }

    def _compare(self, taught: Tensor, learned: Tensor) -> None:
        if self._compared and taught.shape == learned.shape:
            return
        if taught.shape != learned.shape or not torch.allclose(taught, learned, atol=1e-2):
            raise WeightsError(
                f"{self.path}: the teacher has {len(taught)} anchors and the student "
                f"{len(learned)}, and they have to be the same. Give the student the teacher's "
                "anchors, strides and number of extra maps; widths may differ."
            )
        self._compared = True


def soft_class_losses(
    logits: Tensor, taught: Tensor, score_activation: ScoreActivation, temperature: float
) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher's classes at each anchor (B, A).

    Both logits are (B, A, C + 1) float32, divided by the temperature; the result is multiplied
    by its square. ``softmax`` compares all columns, ``sigmoid`` each by itself, summed.
    """
    student, teacher = logits.flatten(0, 1), taught.flatten(0, 1)
    if score_activation == "softmax":
        losses = SoftTargets(temperature)(student, teacher)
    else:
        losses = SoftLabels(temperature)(student, teacher) * logits.shape[-1]  # a sum, not a mean
    return losses.reshape(logits.shape[:2])


def _shown(categories: dict[int, str]) -> str:
    names = list(categories.values())
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
