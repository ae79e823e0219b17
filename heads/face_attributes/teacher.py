"""A trained attribute network as a teacher of smaller ones (Howard et al. 2017, Section 4.5)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...backbone.errors import WeightsError
from ..teachers import ModelTeacher

if TYPE_CHECKING:
    from .task import AttributeTask

# Arguments of backbones that fetch weights, which the checkpoint holds itself.
_WEIGHT_OPTIONS = {"weights": None, "download": False}


class _Logits(nn.Module):
    """An attribute network that says its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class AttributeTeacher(ModelTeacher):
    """An attribute network of this package, from its checkpoint.

    It sees the pictures as the student does, after augmentation.

    Args:
        checkpoint: A checkpoint of an ``AttributeTask``.
        size_hw: What pictures are resized to for it; None takes the size of its training.
    """

    def __init__(self, checkpoint: str | Path, size_hw: tuple[int, int] | None = None) -> None:
        super().__init__(nn.Identity, size_hw=size_hw)
        self.path = Path(checkpoint)
        self.attributes: tuple[str, ...] | None = None
        """What it speaks of, once it has been read."""

    def _make(self) -> nn.Module:
        task = load_attribute_task(self.path)
        self.attributes = tuple(task.categories.values())
        if self.size_hw is None and "size_hw" in task.facts:
            height, width = task.facts["size_hw"]
            self.size_hw = (int(height), int(width))
        return _Logits(task.network)

    def _normalised(self, images: Tensor) -> Tensor:
        return images  # the network normalises


def load_attribute_task(path: str | Path) -> "AttributeTask":
    """Rebuild the ``AttributeTask`` of a checkpoint, on the CPU.

    Weights that its backbone was built from are not asked for: the checkpoint holds all of them.

    Raises:
        WeightsError: No such file, or no checkpoint of an attribute network that was trained from
            a YAML.
    """
    from .task import AttributeTask

    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; name the checkpoint of an attribute network, such as best.ckpt "
            "of a run of configs/face_attributes.yaml"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        network = _without_weights(content["hyper_parameters"]["network"])
        return AttributeTask.load_from_checkpoint(
            path, map_location="cpu", weights_only=True, network=network, distillation=None
        )
    except Exception as error:  # torch.load and Lightning raise many kinds for a foreign file
        raise WeightsError(
            f"{path}: no checkpoint of an attribute network that can be rebuilt ({error}). Take "
            "one that `lightning fit` wrote, such as best.ckpt."
        ) from error


def _without_weights(network: Any) -> Any:
    """Class paths and arguments of a network whose backbone reads and fetches nothing."""
    if not isinstance(network, dict):
        return network
    return {
        key: _WEIGHT_OPTIONS[key] if key in _WEIGHT_OPTIONS else _without_weights(value)
        for key, value in network.items()
    }
