"""Detectors in eager torch: batch normalisation folded, channels_last, inference mode."""

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...backbone.fuse import fuse
from ...backbone.layers import ConvNormAct
from ...datasets.errors import DataError
from ...heads.detection.task import DetectionNetwork, DetectionTask
from ...heads.task import CHECKPOINT_ENTRY
from ..training.runs import AtomicCheckpointIO
from .protocol import Found


class TorchEngine:
    """Runs a network that follows ``DetectionNetwork``.

    The network is copied, so that the caller's stays as it is. The number of threads is left to
    the user: ``torch.set_num_threads``.

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
        self.categories = dict(categories)
        self.size_hw = size_hw
        self.device = choose_device(device)
        self.network = for_inference(network, self.device)

    def __call__(self, images: np.ndarray) -> Found:
        """See ``DetectionEngine``."""
        detector = cast(DetectionNetwork, self.network)
        with torch.inference_mode():
            # Rows of pixels as decoded are what channels_last is in memory.
            batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
            found = detector.detect(detector(batch), self.size_hw)
            return Found(*(field.cpu().numpy() for field in found))


def for_inference(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a network that is fast to run: folded, fixed, channels_last, on a device."""
    foldable = any(isinstance(module, ConvNormAct) for module in network.modules())
    own = fuse(network) if foldable else copy.deepcopy(network).eval()
    own.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return own.to(device)


def choose_device(device: str | torch.device) -> torch.device:
    """The device that a name means; "auto" is an accelerator where there is one.

    Raises:
        DataError: There is no such device.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except Exception as error:  # each backend has its own kinds
        raise DataError(f"device {device}: {error}. Choose auto or cpu.") from error


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
