"""What embeds and describes face crops in one pass: a trained network in eager torch."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ...heads.checkpoint import load_task
from ...heads.face_attributes.measures import stored_thresholds
from ...heads.faces import FacesTask
from ..engines.torch_network import TorchNetwork
from .attribute_engine import crop_size
from .results import Analysis, Threshold, measured_threshold


class AnalysisEngine(Protocol):
    """A network of both face jobs that is ready to run."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the crops, in px."""
        ...

    @property
    def thresholds(self) -> dict[str, float]:
        """Attribute -> the probability from which on it is said to be there, in their order."""
        ...

    @property
    def threshold(self) -> Threshold | None:
        """Least similarity of one person, as measured; None where nobody measured it."""
        ...

    def __call__(self, crops: np.ndarray) -> Analysis:
        """Embed and describe (B, height, width, 3) uint8 RGB."""
        ...


class TorchAnalysisEngine(TorchNetwork):
    """A network of both face jobs in eager torch; see ``TorchNetwork``.

    Args:
        network: Takes (B, 3, H, W) uint8 RGB and gives ``FacesOutput``.
        thresholds: Attribute -> threshold, all A in their order.
        size_hw: Height and width of the crops, as in training.
        threshold: Of embeddings, as measured.
        device: "auto" or a device of torch.

    Raises:
        DataError: There is no such device.
    """

    def __init__(
        self,
        network: nn.Module,
        thresholds: dict[str, float],
        size_hw: tuple[int, int],
        threshold: Threshold | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(network, device)
        self.thresholds = dict(thresholds)
        self.size_hw = size_hw
        self.threshold = threshold

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> Analysis:
        """See ``AnalysisEngine``."""
        said = self.answer(crops)
        probabilities = said.attributes.logits.float().sigmoid()
        return Analysis(said.embeddings.cpu().numpy(), probabilities.cpu().numpy())


def load_analysis_engine(
    path: str | Path, device: str = "auto", size_hw: tuple[int, int] | None = None
) -> TorchAnalysisEngine:
    """Load a checkpoint of ``FacesTask``.

    Args:
        path: The file.
        device: "auto" takes an accelerator where there is one, else the CPU.
        size_hw: Height and width of the crops; None takes those of training.

    Raises:
        WeightsError: No such file, or no network of both face jobs in it.
        DataError: It does not say its size, or there is no such device.
    """
    task = load_task(path, FacesTask)
    return TorchAnalysisEngine(
        task.network,
        stored_thresholds(task.categories.values(), task.facts),
        size_hw or crop_size(path, task.facts),
        measured_threshold(task.facts),
        device,
    )
