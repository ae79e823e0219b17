"""Run checkpoints in eager torch, and adapt their networks for it and for export."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backbone.fuse import fuse
from ...backbone.layers import ConvNormAct
from ...datasets.errors import DataError
from ...heads.checkpoint import load_task
from ...heads.task import ImageTask
from .runtime import ModelMetadata

if TYPE_CHECKING:
    from .predictor import Predictor

Prepare = Callable[[nn.Module], nn.Module]
"""Copies a network and makes it ready, for instance ``for_inference``."""


class AdaptedNetwork(nn.Module):
    """A network of any job from pixels to its named outputs, for eager torch and for export.

    Args:
        network: (B, 3, h, w) uint8 RGB to whatever the job's networks give.
        outputs: ``Predictor.outputs`` of the job.
        size_hw: Height and width that the network works at.
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
            pixels: (B, 3, h, w) uint8, of the network's size.
            image_hw: Height and width of the images before they were resized; None where whoever
                resized them scales the results back.
        """
        return self.outputs(self.network, pixels, self.size_hw, image_hw)


def adapt(
    predictor: "type[Predictor[Any]]", task: ImageTask, prepare: Prepare, size_hw: tuple[int, int]
) -> AdaptedNetwork:
    """Make a task's network ready to run on its own; the task stays as it is."""
    return AdaptedNetwork(predictor.adapted(task, prepare), predictor.outputs, size_hw)


class TorchRuntime:
    """A network in eager torch behind ``Runtime``.

    The number of threads is left to the user: ``torch.set_num_threads``.

    Args:
        network: Ready to run, see ``adapt``; it is moved to the device.
        metadata: What it is; its outputs are those of the network, in order.
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
        """See ``Runtime``; images have the network's size."""
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
    """Make a runtime of a network that was built in Python; the network is copied."""
    adapted = AdaptedNetwork(for_inference(network), predictor.outputs, metadata.size_hw)
    return TorchRuntime(adapted, metadata, device)


def run_task(
    predictor: "type[Predictor[Any]]",
    task: ImageTask,
    device: str = "auto",
    size_hw: tuple[int, int] | None = None,
    source: str = "the task",
) -> TorchRuntime:
    """Make a runtime of a trained task; the task is copied.

    Args:
        predictor: The job's.
        task: As trained.
        device: As for ``TorchRuntime``.
        size_hw: Height and width that the network works at; None takes those of training.
        source: What messages call it.

    Raises:
        DataError: There is no such device, or nothing says how large the images are.
    """
    size_hw = input_size(task, size_hw, source)
    metadata = predictor.describe(task, size_hw)
    return TorchRuntime(adapt(predictor, task, for_inference, size_hw), metadata, device)


def open_checkpoint(
    predictor: "type[Predictor[Any]]", path: Path, device: str, size_hw: tuple[int, int] | None
) -> TorchRuntime:
    """Open a checkpoint of a job; see ``run_task``.

    Raises:
        CheckpointError: It cannot be read or rebuilt, or is for another job.
        DataError: As for ``run_task``.
    """
    task = load_task(path, predictor.task_class())
    return run_task(predictor, task, device, size_hw, str(path))


def input_size(
    task: ImageTask, size_hw: tuple[int, int] | None = None, source: str = "the task"
) -> tuple[int, int]:
    """Height and width that a network works at: those asked for, else those of training.

    Raises:
        DataError: Nothing says them, or one is below 1.
    """
    size_hw = size_hw or task.metadata.get("size_hw")
    if size_hw is None:
        raise DataError(
            f"{source}: does not say how large its images were in training. Give the size, for "
            "instance size_hw=(300, 300) or --size 300 300."
        )
    height, width = (int(side) for side in size_hw)
    if min(height, width) < 1:
        raise DataError(f"size_hw={height, width}: height and width must be at least 1")
    return height, width


def as_batch(images: np.ndarray, device: torch.device | None = None) -> Tensor:
    """(B, H, W, 3) uint8 as (B, 3, H, W) on a device, None the CPU, whose memory is the array's.

    Rows of pixels as decoded are what channels_last is in memory.
    """
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


def for_inference(network: nn.Module) -> nn.Module:
    """Return a copy of a network that is fast to run: folded, fixed and channels_last."""
    foldable = any(isinstance(module, ConvNormAct) for module in network.modules())
    own = fuse(network) if foldable else copy.deepcopy(network).eval()
    return own.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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
