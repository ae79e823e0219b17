"""The network that a configuration or a checkpoint names, built without its data and weights."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from ...backbone.cost import Cost, count_cost
from ...datasets.errors import DataError
from ...heads.checkpoint import build, read_checkpoint, without_weights

_NUM_CLASSES = "num_classes"
_CONFIG_NETWORK = ("model", "init_args", "network")
_CONFIG_SIZE = ("data", "init_args", "size_hw")


class NamedNetwork(NamedTuple):
    """A network, what it is called and what it is for."""

    name: str
    """Its class."""
    network: nn.Module
    size_hw: tuple[int, int] | None
    """Input size in px of the configuration's data, else of the checkpoint; None where neither
    says it."""


def network_of(
    config: Path | None = None,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    device: str = "meta",
) -> NamedNetwork:
    """Build the network of a YAML, of a checkpoint, or the checkpoint's at the YAML's input size.

    Args:
        config: A configuration of the ``lightning`` command.
        checkpoint: A checkpoint of this package; its network goes before the configuration's.
        num_classes: Classes of the data, where the network needs them and nothing says them (in
            training they come from the data).
        device: Where it is built: on "meta" it has shapes and no values, elsewhere random weights.

    Raises:
        DataError: A file cannot be read or names no network, or the classes are missing.
        ValueError: Neither a configuration nor a checkpoint.
    """
    if config is None and checkpoint is None:
        raise ValueError("give a configuration, a checkpoint or both")
    settings = {} if config is None else _read_config(config)
    spec, size = (_at(settings, *path) for path in (_CONFIG_NETWORK, _CONFIG_SIZE))
    if checkpoint is not None:
        content = read_checkpoint(checkpoint, map_location="meta")
        spec = _at(content, "hyper_parameters", "network")
        size = size or _at(content, "mobilevision", "size_hw")
    source = checkpoint or config
    assert source is not None
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise DataError(f"{source}: names no network (a class_path)")
    arguments = {} if num_classes is None else {_NUM_CLASSES: num_classes}
    try:
        with torch.device(device):
            if checkpoint is not None:  # a stranger's, perhaps; a configuration is the user's own
                network = build(without_weights(spec), checkpoint, **arguments)
            else:
                network = _configured(spec, arguments)
    except DataError:
        raise
    except Exception as error:  # whatever a constructor raises is about the named arguments
        what = str(error).partition("\n  Given value")[0]
        if _NUM_CLASSES in what and not arguments:
            what = "it leaves the number of classes to the data; --num-classes says it"
        raise DataError(f"{source}: the network cannot be built: {what}") from error
    pair = isinstance(size, list | tuple) and len(size) == 2
    size_hw = (int(size[0]), int(size[1])) if pair else None
    return NamedNetwork(type(network).__name__, network, size_hw)


def _at(settings: Any, *path: str) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path}: not a configuration (a YAML with model and data)")
    return settings


def _configured(spec: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    """The network of a configuration, as the ``lightning`` command builds it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network", required=True)
    given = {**(spec.get("init_args") or {}), **arguments}
    return parser.instantiate(parser.parse_object({"network": {**spec, "init_args": given}}))[
        "network"
    ]


def cost_of(
    config: Path | None,
    checkpoint: Path | None,
    num_classes: int | None = None,
    size_hw: tuple[int, int] | None = None,
) -> tuple[str, tuple[int, int], Cost]:
    """Count a network for one picture; its name, the picture's size and the cost.

    Args:
        config: as for ``network_of``, like the following two.
        checkpoint: see there.
        num_classes: see there.
        size_hw: Picture in px; None takes that of the configuration or the checkpoint.

    Raises:
        DataError: as ``network_of``, or nothing says how large the pictures are.
    """
    for device in ("meta", "cpu"):
        name, network, own_size_hw = network_of(config, checkpoint, num_classes, device)
        size = size_hw or own_size_hw
        if size is None or min(size) < 1:
            raise DataError("how large are the pictures? --size HEIGHT WIDTH says it, in px")
        try:
            return name, size, count_cost(network, torch.zeros(1, 3, *size, device=device))
        except (NotImplementedError, RuntimeError):
            # What is selected by value, as proposals are, cannot be run without values.
            if device == "cpu":
                raise
    raise AssertionError("unreachable")
