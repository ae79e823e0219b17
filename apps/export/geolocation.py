"""Geolocation: a probability for each cell, and the cells in the file's metadata."""

from typing import Any

from torch import Tensor, nn

from ...heads.geolocation.task import CROP, GeolocationTask
from ..geolocation.engines import cells_to_plain
from .facts import AS_THEY_ARE, ModelFacts
from .folding import for_export
from .jobs import Job

_OUTPUTS = {"probabilities": "(batch, cells) float32: of the cells of the finest partition"}


class CellAnswers(nn.Module):
    """A task's probabilities, calibrated as the task has them.

    Args:
        task: With its cells; it is copied.
    """

    def __init__(self, task: GeolocationTask) -> None:
        super().__init__()
        self.task = for_export(task)
        self.task.five_crop_hw = None  # type: ignore[assignment]

    def forward(self, pixels: Tensor, picture_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``: probabilities."""
        return (self.task.probabilities(pixels).float(),)  # type: ignore[operator]


def deploy(task: GeolocationTask, size_hw: tuple[int, int]) -> Job:
    """See ``JobModule``; its cells and their calibration are the details.

    Raises:
        DataError: The checkpoint does not say what the cells are.
    """
    crop = task.facts.get(CROP)
    details = {
        "cells": cells_to_plain(task.partitions[-1].table),
        "calibration": task.calibration.to_plain(),
        "crop_fraction": crop,
    }
    preparation = (
        AS_THEY_ARE
        if crop is None
        else f"the central {crop:g} of each picture in the shape of size_hw, uint8 RGB "
        "(batch, height, width, 3)"
    )
    facts = ModelFacts(
        "geolocation", size_hw, dict(task.categories), dict(_OUTPUTS), preparation=preparation,
        details=details,
    )  # fmt: skip
    return Job(CellAnswers(task), facts)
