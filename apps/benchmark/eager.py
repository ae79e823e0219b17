"""Checkpoints in eager torch, as the Python API runs them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...heads.checkpoint import load_task
from ...heads.detection.task import DetectionTask
from ...heads.task import ImageTask
from ..inference.detection import Detector
from ..inference.jobs import predictor_of
from ..inference.torch import as_batch, run_task
from .opening import Opened, Run


def open_checkpoint(source: str, threads: int) -> Opened:
    """Open a checkpoint in eager torch, as the Python API runs it.

    Detectors run through ``Detector``; for the other jobs a picture is resized and goes through
    the network as their Python APIs prepare it.
    """
    torch.set_num_threads(threads)
    path = Path(source)
    task = load_task(path, ImageTask)
    runtime = run_task(predictor_of(task), task, "cpu", source=str(path))
    height, width = runtime.facts.size_hw
    network = cast(nn.Module, getattr(runtime.network.network, "network", runtime.network.network))
    if isinstance(task, DetectionTask):
        return Opened(_detecting(Detector(runtime)), running(network, as_batch))
    return Opened(
        running(network, lambda images: resized(as_batch(images), (height, width))),
        running(network, as_batch),
    )


def running(network: nn.Module, prepare: Callable[[np.ndarray], object]) -> Run:
    """A network behind its preparation, without gradients."""

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return network(prepare(images))

    return run


def resized(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Pixels (B, 3, H, W) uint8 at a size, as training resizes them."""
    if pixels.shape[2:] == size_hw:
        return pixels
    return F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)


def _detecting(detector: Detector) -> Run:
    def run(images: np.ndarray) -> object:
        return detector(list(images), batch_size=len(images))

    return run
