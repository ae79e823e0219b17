"""A checkpoint as one module from pictures to answers, the same for every format."""

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ...heads.checkpoint import load_task
from ...heads.task import ImageTask
from ..inference.jobs import predictor_of
from ..inference.metadata import ModelFacts
from ..inference.torch import adapt, input_size
from .folding import for_export
from .nms import make_exportable

UNKNOWN = "unknown"
_LARGEST = 1 << 16


class DeployedNetwork(nn.Module):
    """Pictures as they are decoded to named outputs.

    The resize is Pillow's (bilinear with antialiasing on uint8), as in training and evaluation.
    Pictures that have the network's size already pass through it unchanged.

    Args:
        answers: Pixels of the network's size and the size of the pictures to the outputs.
        size_hw: Height and width that the network works at.
    """

    def __init__(self, answers: nn.Module, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.answers = answers
        self.size_hw = size_hw

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for pictures (B, H, W, 3) uint8 RGB."""
        picture_hw = (images.shape[1], images.shape[2])
        pixels = images.permute(0, 3, 1, 2)
        # Where sizes are left open they are no numbers, and the resize stays in the graph.
        if not all(isinstance(side, int) for side in picture_hw) or picture_hw != self.size_hw:
            pixels = F.interpolate(pixels, self.size_hw, mode="bilinear", antialias=True)
        return self.answers(pixels, picture_hw)


@dataclass(frozen=True)
class Deployable:
    """A network that is ready to be written.

    Attributes:
        module: Pictures (B, H, W, 3) uint8 RGB to the outputs that ``facts`` names, in order.
        facts: What the file is to say.
    """

    module: DeployedNetwork
    facts: ModelFacts

    def program(self, batch: int | None = None, any_picture: bool = True) -> ExportedProgram:
        """Trace the network.

        Args:
            batch: Pictures of each call; None leaves it open.
            any_picture: Whether pictures may have any size and are resized inside; False takes
                pictures of the network's size alone.
        """
        height, width = self.facts.size_hw
        if any_picture:  # other numbers than the network's, which would be taken for fixed
            height, width = height + 13, width + 29
        example = torch.zeros(batch or 2, height, width, 3, dtype=torch.uint8)
        with torch.no_grad():
            self.module(example)  # lets anchors be made as values
            return torch.export.export(
                self.module, (example,), dynamic_shapes=(self.open_axes(batch, any_picture),)
            )

    def open_axes(self, batch: int | None = None, any_picture: bool = True) -> dict[int, Any]:
        """Axes of the pictures that are left open, as ``torch.export`` has them."""
        axes: dict[int, Any] = {}
        if batch is None:
            axes[0] = Dim("batch", min=1, max=_LARGEST)
        if any_picture:
            axes[1] = Dim("height", min=1, max=_LARGEST)
            axes[2] = Dim("width", min=1, max=_LARGEST)
        return axes


def open_deployable(path: str | Path, size_hw: tuple[int, int] | None = None) -> Deployable:
    """Make what is exported of a checkpoint of any job.

    Args:
        path: A checkpoint that ``lightning fit`` or ``mobilevision import`` wrote.
        size_hw: Height and width that the network works at; None takes those of training.

    Raises:
        DataError: It cannot be read or rebuilt, is for no job that can be exported, or does not
            say its size.
    """
    path = Path(path)
    task = load_task(path, ImageTask)
    predictor = predictor_of(task)
    size_hw = input_size(task, size_hw, str(path))
    facts = replace(
        predictor.describe(task, size_hw),
        licence=_licence(task.facts),
        provenance=_provenance(path, task.facts),
    )
    adapted = adapt(predictor, task, prepare_for_export, size_hw)
    return Deployable(DeployedNetwork(adapted, size_hw).eval(), facts)


def prepare_for_export(network: nn.Module) -> nn.Module:
    """Return a copy of a network with nothing of training in it, and NMS that can be exported."""
    return make_exportable(for_export(network))


def _licence(stored: dict[str, Any]) -> str:
    return str((stored.get("provenance") or {}).get("licence") or UNKNOWN)


def _provenance(path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """Where a model comes from, and what wrote it: plain data."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": digest,
        "weights": stored.get("provenance") or {},
        "mobilevision": version("mobilevision"),
        "torch": torch.__version__,
    }
