"""Detectors with suppression inside: boxes in pixels of the pictures given."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...heads.detection.task import DetectionNetwork, DetectionTask
from .facts import ModelFacts
from .folding import for_export
from .jobs import Job
from .nms import make_exportable

_OUTPUTS = {
    "boxes": "(batch, detections, 4) float32: x1, y1, x2, y2 in pixels of the picture given",
    "scores": "(batch, detections) float32 from 0 to 1, falling",
    "labels": "(batch, detections) int64: position in the categories; -1 fills up",
}


class DetectorAnswers(nn.Module):
    """A detector, its decoding and its suppression.

    Args:
        network: Follows ``DetectionNetwork``; it is copied.
        size_hw: Height and width that it works at.
    """

    def __init__(self, network: nn.Module, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.network = make_exportable(for_export(network))
        self.size_hw = size_hw

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:
        """See ``Answers``: boxes, scores and labels."""
        detector = cast(DetectionNetwork, self.network)
        found = detector.detect(detector(pixels), self.size_hw)
        down, across = (
            torch.scalar_tensor(given / works, device=found.boxes.device)
            for given, works in zip(picture_hw, self.size_hw, strict=True)
        )
        boxes = found.boxes * torch.stack([across, down, across, down])
        return boxes, found.scores, found.labels


def deploy(task: DetectionTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``."""
    facts = ModelFacts("detection", size_hw, dict(task.categories), dict(_OUTPUTS))
    return Job(DetectorAnswers(task.network, size_hw), facts)
