"""Checkpoints in eager torch, as the Python API runs them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...datasets.errors import DataError
from ...heads.checkpoint import load_task
from ...heads.detection.task import DetectionTask
from ...heads.task import ImageTask
from ..detection.detector import Detector
from ..engines.eager import TorchEngine
from ..engines.torch_network import as_batch, for_inference
from .opening import Opened, Run


def open_side(source: str, threads: int) -> Opened:
    """See ``Opener``; the source is a checkpoint.

    Detectors run through ``Detector``; for the other jobs a picture is resized and goes through
    the network as their Python APIs prepare it.
    """
    torch.set_num_threads(threads)
    path = Path(source)
    task = load_task(path, ImageTask)
    size_hw = task.facts.get("size_hw")
    if size_hw is None:
        raise DataError(f"{path}: does not say how large its pictures were in training.")
    height, width = size_hw
    if isinstance(task, DetectionTask):
        detector = Detector.from_network(task.network, task.categories, (height, width), "cpu")
        network = cast(TorchEngine, detector.engine).network
        return Opened(_detecting(detector), running(network, as_batch))
    network = for_inference(cast(nn.Module, task.network), torch.device("cpu"))
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
