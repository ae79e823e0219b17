"""Run checkpoints in eager torch, and adapt their networks for it and for export."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backbone.layers import ConvNormAct, fuse
from ...datasets.errors import DataError
from ...heads.task import ImageTask
from .runtime import ModelMetadata

if TYPE_CHECKING:
    from .predictor import Predictor

Prepare = Callable[[nn.Module], nn.Module]
"""Copies a network and prepares it, such as ``for_inference``."""


class AdaptedNetwork(nn.Module):
    """A network of any job from pixels to its named outputs, for eager torch and for export.

    Args:
        network: (B, 3, h, w) uint8 RGB to any output.
        outputs: ``Predictor.outputs`` of the job.
        size_hw: Height and width of the network's input.
    """

    def __init__(
        self,
        network: nn.Module,
        outputs: Callable[..., tuple[Tensor, ...]],
        size_hw: tuple[int, int],
    ) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        self.size_hw = size_hw

    def forward(
        self, pixels: Tensor, image_hw: tuple[Any, Any] | None = None
    ) -> tuple[Tensor, ...]:
        """Return the outputs in the order of the metadata.

        Args:
            pixels: (B, 3, h, w) uint8, of the network's input size.
            image_hw: Height and width of the images before they were resized; None if the caller
                scales the results back.
        """
        return self.outputs(self.network, pixels, self.size_hw, image_hw)


class TorchRuntime:
    """The ``Runtime`` of a network in eager torch.

    The number of threads is left to the user: ``torch.set_num_threads``.

    Args:
        network: Ready to run; it is moved to the device.
        metadata: Its outputs are those of the network, in order.
        device: "auto" or a device of torch.

    Raises:
        DataError: There is no such device.
    """

    def __init__(
        self, network: AdaptedNetwork, metadata: ModelMetadata, device: str | torch.device = "auto"
    ) -> None:
        self.device = choose_device(device)
        self.network = network.to(self.device)
        self.metadata = metadata

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``; images have the network's input size."""
        adapted = self.network
        pixels = as_batch(images, self.device)
        outputs = adapted.outputs(adapted.network, pixels, adapted.size_hw, None)
        return {
            name: output.cpu().numpy()
            for name, output in zip(self.metadata.outputs, outputs, strict=True)
        }


def run_network(
    predictor: "type[Predictor[Any]]", network: nn.Module, metadata: ModelMetadata, device: str
) -> TorchRuntime:
    """Make a runtime of a copy of a network."""
    adapted = AdaptedNetwork(for_inference(network), predictor.outputs, metadata.size_hw)
    return TorchRuntime(adapted, metadata, device)


def run_task(
    predictor: "type[Predictor[Any]]",
    task: ImageTask,
    device: str = "auto",
    size_hw: tuple[int, int] | None = None,
    source: str = "the task",
) -> TorchRuntime:
    """Make a runtime of a copy of a trained task.

    Args:
        predictor: The predictor of the job.
        task: The task.
        device: See ``TorchRuntime``.
        size_hw: Height and width of the network's input; None takes those of training.
        source: The task's name in messages.

    Raises:
        DataError: There is no such device, or the input size is unknown.
    """
    size_hw = input_size(task, size_hw, source)
    adapted = AdaptedNetwork(predictor.adapted(task, for_inference), predictor.outputs, size_hw)
    return TorchRuntime(adapted, predictor.describe(task, size_hw), device)


def input_size(
    task: ImageTask, size_hw: tuple[int, int] | None = None, source: str = "the task"
) -> tuple[int, int]:
    """Return height and width of a network's input: those asked for, else those of training.

    Raises:
        DataError: The size is unknown, or a side is below 1.
    """
    size_hw = size_hw or task.metadata.get("size_hw")
    if size_hw is None:
        raise DataError(
            f"{source}: does not state the size of its images in training. Give the size, for "
            "instance size_hw=(300, 300) or --size 300 300."
        )
    height, width = (int(side) for side in size_hw)
    if min(height, width) < 1:
        raise DataError(f"size_hw={height, width}: height and width must be at least 1")
    return height, width


def as_batch(images: np.ndarray, device: torch.device | None = None) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, H, W), channels_last like decoded images.

    They are moved to the device; None is the CPU, where they share the memory of the array.
    """
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


def for_inference(network: nn.Module) -> nn.Module:
    """Return a copy of a network for fast inference: folded, frozen and channels_last."""
    foldable = any(isinstance(module, ConvNormAct) for module in network.modules())
    copied = fuse(network) if foldable else copy.deepcopy(network).eval()
    return copied.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is an accelerator if there is one.

    Raises:
        DataError: There is no such device.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except Exception as error:  # each backend raises its own kinds
        raise DataError(f"device {device}: {error}. Choose auto or cpu.") from error
