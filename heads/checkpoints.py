"""Checkpoints of networks that were not trained here, in the form of those that were.

Whatever opens a trained checkpoint opens these: the hyper-parameters are what a YAML would say, and
an entry ``mobilevision`` has the size of the pictures and where the weights come from.
"""

from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import nn

from ..datasets.files import replaced_atomically
from .task import CHECKPOINT_ENTRY, CHECKPOINT_FORMAT, ImageTask

# How LightningCLI marks hyper-parameters that are class paths and arguments.
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


class Plan(NamedTuple):
    """A class and its arguments: what a YAML says of a network, and the network made of it."""

    made: type
    arguments: dict[str, Any]
    """Plain data, and plans for what is made of further classes."""

    def build(self) -> Any:
        """Make an object of the class."""
        return self.made(
            **{
                name: value.build() if isinstance(value, Plan) else value
                for name, value in self.arguments.items()
            }
        )

    def as_plain(self) -> dict[str, Any]:
        """Return it as class paths and arguments, as jsonargparse reads them."""
        arguments = {
            name: value.as_plain() if isinstance(value, Plan) else value
            for name, value in self.arguments.items()
        }
        return {
            "class_path": f"{self.made.__module__}.{self.made.__qualname__}",
            "init_args": arguments,
        }


def write_checkpoint(
    path: Path,
    task: type[ImageTask],
    plan: Plan,
    network: nn.Module,
    categories: dict[int, str],
    size_hw: tuple[int, int],
    provenance: dict[str, Any],
) -> None:
    """Write a network as a checkpoint of a task, whole or not at all.

    ``task.load_from_checkpoint(path)`` rebuilds it, and so do the command lines.

    Args:
        path: The file to write or replace.
        task: The job; takes ``network`` and ``categories``.
        plan: What the network was made of.
        network: It, with its weights.
        categories: Category id -> name; the position is the class index.
        size_hw: Height and width of the pictures, in pixels.
        provenance: Where the weights come from; plain data.

    Raises:
        ValueError: The plan makes another network.
        OSError: The file cannot be written.
    """
    expected = {name: value.shape for name, value in plan.build().state_dict().items()}
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != expected:
        raise ValueError("the plan makes a network with other parameters than this one")
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {f"network.{name}": value for name, value in state.items()},
        "hyper_parameters": {
            "network": plan.as_plain(),
            "categories": dict(categories),
            "_class_path": f"{task.__module__}.{task.__qualname__}",
            "_instantiator": _INSTANTIATOR,
        },
        CHECKPOINT_ENTRY: {
            "format": CHECKPOINT_FORMAT,
            "size_hw": list(size_hw),
            "provenance": provenance,
        },
    }
    with replaced_atomically(path) as temporary:
        torch.save(content, temporary)
