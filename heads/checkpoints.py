"""Checkpoints: rebuilt with what trained them, and written of networks that were not trained here.

Whatever opens a trained checkpoint opens the latter: the hyper-parameters are what a YAML would
say, and an entry ``mobilevision`` has the size of the pictures and where the weights come from.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lightning
import torch
from torch import nn

from ..backbone.errors import WeightsError
from ..datasets.files import replaced_atomically
from .task import CHECKPOINT_ENTRY, CHECKPOINT_FORMAT, ImageTask

# How LightningCLI marks hyper-parameters that are class paths and arguments.
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"

# Arguments of backbones that fetch weights, which the checkpoint holds itself.
_WEIGHT_OPTIONS = {"weights": None, "download": False}

T = TypeVar("T", bound=ImageTask)


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


def rebuild_task(path: str | Path, task: type[T], network: str, recipe: str, **overrides: Any) -> T:
    """Rebuild the task of a checkpoint, on the CPU.

    Weights that its backbone was built from are not asked for: the checkpoint holds all of them.

    Args:
        path: The checkpoint.
        task: Its class.
        network: What messages call its network, such as "an attribute network".
        recipe: A YAML that trains one, for messages.
        **overrides: Arguments of the task in place of those of training.

    Raises:
        WeightsError: No such file, or no checkpoint of such a task that was trained from a YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; name the checkpoint of {network}, such as best.ckpt of a run "
            f"of {recipe}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        made_of = _without_weights(content["hyper_parameters"]["network"])
        return task.load_from_checkpoint(
            path, map_location="cpu", weights_only=True, network=made_of, **overrides
        )
    except Exception as error:  # torch.load and Lightning raise many kinds for a foreign file
        raise WeightsError(
            f"{path}: no checkpoint of {network} that can be rebuilt ({error}). Take one that "
            "`lightning fit` wrote, such as best.ckpt."
        ) from error


def _without_weights(network: Any) -> Any:
    """Class paths and arguments of a network whose backbone reads and fetches nothing."""
    if not isinstance(network, dict):
        return network
    return {
        key: _WEIGHT_OPTIONS[key] if key in _WEIGHT_OPTIONS else _without_weights(value)
        for key, value in network.items()
    }
