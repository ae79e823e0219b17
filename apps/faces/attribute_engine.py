"""What says the attributes of face crops: a trained network in eager torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ...datasets.errors import DataError
from ...heads.checkpoint import load_task
from ...heads.face_attributes.measures import stored_thresholds
from ...heads.face_attributes.task import AttributeTask
from ..engines.torch_network import TorchNetwork


class AttributeEngine(Protocol):
    """An attribute network that is ready to run."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the crops, in px."""
        ...

    @property
    def thresholds(self) -> dict[str, float]:
        """Attribute -> the probability from which on it is said to be there, in their order."""
        ...

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Return probabilities (B, A) float32 of (B, height, width, 3) uint8 RGB."""
        ...


class TorchAttributeEngine(TorchNetwork):
    """An attribute network in eager torch; see ``TorchNetwork``.

    Args:
        network: Takes (B, 3, H, W) uint8 RGB and gives ``AttributeOutput``.
        thresholds: Attribute -> threshold, all A in their order.
        size_hw: Height and width of the crops, as in training.
        device: "auto" or a device of torch.

    Raises:
        DataError: There is no such device.
    """

    def __init__(
        self,
        network: nn.Module,
        thresholds: dict[str, float],
        size_hw: tuple[int, int],
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(network, device)
        self.thresholds = dict(thresholds)
        self.size_hw = size_hw

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """See ``AttributeEngine``."""
        return self.answer(crops).logits.float().sigmoid().cpu().numpy()


def load_attribute_engine(
    path: str | Path, device: str = "auto", size_hw: tuple[int, int] | None = None
) -> TorchAttributeEngine:
    """Load a checkpoint of ``AttributeTask``.

    Args:
        path: The file.
        device: "auto" takes an accelerator where there is one, else the CPU.
        size_hw: Height and width of the crops; None takes those of training.

    Raises:
        WeightsError: No such file, or no attribute network in it.
        DataError: It does not say its size, or there is no such device.
    """
    task = load_task(path, AttributeTask)
    thresholds = stored_thresholds(task.categories.values(), task.facts)
    size_hw = size_hw or crop_size(path, task.facts)
    return TorchAttributeEngine(task.network, thresholds, size_hw, device)


def crop_size(path: str | Path, facts: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the crops in training, from a checkpoint's plain facts.

    Raises:
        DataError: They do not say it.
    """
    if facts.get("size_hw") is None:
        raise DataError(f"{path}: does not say how large its crops were; give size_hw=(160, 128)")
    height, width = facts["size_hw"]
    return int(height), int(width)
