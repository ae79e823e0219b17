"""Detectors in eager torch."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...datasets.errors import DataError
from ...heads.detection.task import DetectionNetwork, DetectionTask
from ...heads.task import CHECKPOINT_ENTRY
from ..training.runs import AtomicCheckpointIO
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
    checkpoint = AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise DataError(f"{path}: weights alone are no detector. Give a checkpoint of a training.")
    hyper_parameters = checkpoint.get("hyper_parameters", {})
    categories = hyper_parameters.get("categories")
    if not categories or not hyper_parameters.get("network"):
        raise DataError(
            f"{path}: does not say what its detector is made of: it was trained from Python with "
            "objects, or for another job. Rebuild the network, load the state_dict into it and "
            "use Detector.from_network(network, categories)."
        )
    size_hw = size_hw or _trained_size(path, checkpoint)
    try:
        task = DetectionTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:  # wrong arguments, missing classes, weights that do not fit
        raise DataError(f"{path}: its detector cannot be rebuilt: {error}") from error
    return TorchEngine(task.network, task.categories, size_hw, device)


def _trained_size(path: Path, checkpoint: dict[str, Any]) -> tuple[int, int]:
    size_hw = checkpoint.get(CHECKPOINT_ENTRY, {}).get("size_hw")
    if size_hw is None:
        raise DataError(
            f"{path}: does not say how large its pictures were in training. Give the size, for "
            "instance size_hw=(300, 300) or --size 300 300."
        )
    return int(size_hw[0]), int(size_hw[1])
