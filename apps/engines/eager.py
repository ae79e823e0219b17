"""Detectors in eager torch."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...datasets.errors import DataError
from ...heads.checkpoint import load_task
from ...heads.detection.task import DetectionNetwork, DetectionTask
from .protocol import Found
from .torch_network import TorchNetwork


class TorchEngine(TorchNetwork):
    """Runs a network that follows ``DetectionNetwork``; see ``TorchNetwork``.

    Args:
        network: A detector such as ``SSD``.
        categories: Category id -> name; the position is the class index.
        size_hw: Height and width that pictures are stretched to.
        device: "auto" or a device of torch.

    Raises:
        DataError: There is no such device.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        size_hw: tuple[int, int],
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(network, device)
        self.categories = dict(categories)
        self.size_hw = size_hw

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Found:
        """See ``DetectionEngine``."""
        detector = cast(DetectionNetwork, self.network)
        found = detector.detect(self.answer(images), self.size_hw)
        return Found(*(field.cpu().numpy() for field in found))


def load_engine(path: Path, device: str, size_hw: tuple[int, int] | None) -> TorchEngine:
    """Load a checkpoint of ``DetectionTask``; see ``engines.load_engine``."""
    task = load_task(path, DetectionTask)
    return TorchEngine(
        task.network, task.categories, size_hw or _trained_size(path, task.facts), device
    )


def _trained_size(path: Path, facts: dict[str, Any]) -> tuple[int, int]:
    size_hw = facts.get("size_hw")
    if size_hw is None:
        raise DataError(
            f"{path}: does not say how large its pictures were in training. Give the size, for "
            "instance size_hw=(300, 300) or --size 300 300."
        )
    return int(size_hw[0]), int(size_hw[1])
