"""Geolocation in eager torch."""

import copy

import numpy as np
import torch

from ...datasets.errors import DataError
from ...heads.geolocation.calibration import Calibration
from ...heads.geolocation.cells import Partition
from ...heads.geolocation.task import CROP, GeolocationTask
from ..engines.torch_network import as_batch, choose_device


class TorchGeolocation:
    """A trained task behind ``GeolocationEngine``.

    Args:
        task: With its cells; it is copied.
        size_hw: Height and width of the network's input; None takes those of training.
        five_crop: Average over the four corners and the centre of each picture.
        device: "auto" takes an accelerator where there is one, else the CPU.

    Raises:
        DataError: There is no such device, or nothing says how large the pictures are or what
            the cells are.
    """

    def __init__(
        self,
        task: GeolocationTask,
        size_hw: tuple[int, int] | None = None,
        five_crop: bool = False,
        device: str = "auto",
    ) -> None:
        trained = task.facts.get("size_hw")
        if size_hw is None and trained is None:
            raise DataError(
                "the checkpoint does not say how large its pictures were in training; give the "
                "size, for instance size_hw=(224, 224) or --size 224 224"
            )
        height, width = size_hw or trained or (0, 0)
        if min(height, width) < 1:
            raise DataError(f"size_hw={height, width}: height and width must be at least 1")
        self.size_hw = (int(height), int(width))
        self.device = choose_device(device)
        own = copy.deepcopy(task).eval().requires_grad_(False)
        own.five_crop_hw = self.size_hw if five_crop else None
        self.task = own.to(self.device)
        self.five_crop = five_crop
        self.crop_fraction: float | None = task.facts.get(CROP)

    @property
    def partition(self) -> Partition:
        """See ``GeolocationEngine``."""
        return self.task.partitions[-1]

    @property
    def calibration(self) -> Calibration:
        """See ``GeolocationEngine``."""
        return self.task.calibration

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See ``GeolocationEngine``."""
        probabilities = self.task.probabilities(as_batch(images, self.device))
        return probabilities.float().cpu().numpy()
