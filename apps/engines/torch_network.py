"""Networks of any job in eager torch: how one becomes fast to run, and how pictures reach it."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backbone.fuse import fuse
from ...backbone.layers import ConvNormAct
from ...datasets.errors import DataError


class TorchNetwork:
    """A network that is ready to run: normalisation folded, channels_last, without gradients.

    The base of engines, which say what becomes of the network's answers. It is copied, so that the
    caller's stays as it is. The number of threads is left to the user: ``torch.set_num_threads``.

    Args:
        network: Takes (B, 3, H, W) uint8 RGB.
        device: "auto" or a device of torch.

    Raises:
        DataError: There is no such device.
    """

    def __init__(self, network: nn.Module, device: str | torch.device = "auto") -> None:
        self.device = choose_device(device)
        self.network = for_inference(network, self.device)

    def answer(self, images: np.ndarray) -> Any:
        """Return what the network says of (B, H, W, 3) uint8 RGB, on its device."""
        return self.network(as_batch(images, self.device))


def as_batch(images: np.ndarray, device: torch.device | None = None) -> Tensor:
    """(B, H, W, 3) uint8 as (B, 3, H, W) on a device, None the CPU, whose memory is the array's.

    Rows of pixels as decoded are what channels_last is in memory.
    """
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


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
