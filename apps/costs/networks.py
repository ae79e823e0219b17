"""Costs of the network of a configuration or checkpoint, built without its data and weights."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from ...backbone.cost import Cost, count_cost
from ...configs import find_config
from ...datasets.errors import DataError
from ...heads.checkpoint import build, read_checkpoint, without_weights
from .paper import Row

_NUM_CLASSES = "num_classes"
_CONFIG_NETWORK = ("model", "init_args", "network")
_CONFIG_SIZE = ("data", "init_args", "size_hw")


def network_of(
    config: Path | None = None,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    device: str = "meta",
) -> tuple[nn.Module, tuple[int, int] | None]:
    """Build the network of a YAML, of a checkpoint, or the checkpoint's at the YAML's input size.

    The input size, in px, is that of the configuration's data, else of the checkpoint, else None.

    Args:
        config: A configuration of the ``lightning`` command.
        checkpoint: A checkpoint of this package; its network has precedence over the
            configuration's.
        num_classes: Number of classes, if the network needs it and the configuration leaves it to
            the data.
        device: Where to build it: on "meta" it has shapes and no values, elsewhere random weights.

    Raises:
        DataError: A file cannot be read or names no network, or the number of classes is missing.
        ValueError: Neither a configuration nor a checkpoint is given.
    """
    if config is None and checkpoint is None:
        raise ValueError("give a configuration, a checkpoint or both")
    settings = {} if config is None else read_config(config)
    spec, size = (entry(settings, *path) for path in (_CONFIG_NETWORK, _CONFIG_SIZE))
    if checkpoint is not None:
        content = read_checkpoint(checkpoint, map_location="meta")
        spec = entry(content, "hyper_parameters", "network")
        size = size or entry(content, "mobilevision", "size_hw")
    source = checkpoint or config
    assert source is not None
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise DataError(f"{source}: names no network (a class_path)")
    arguments = {} if num_classes is None else {_NUM_CLASSES: num_classes}
    try:
        with torch.device(device):
            if checkpoint is not None:  # may be untrusted; a configuration is the user's own
                network = build(without_weights(spec), checkpoint, **arguments)
            else:
                network = _configured(spec, arguments)
    except DataError:
        raise
    except Exception as error:  # any error of a constructor is about the named arguments
        what = constructor_error(error)
        if _NUM_CLASSES in what and not arguments:
            what = "it leaves the number of classes to the data; give it with --num-classes"
        raise DataError(f"{source}: the network cannot be built: {what}") from error
    pair = isinstance(size, list | tuple) and len(size) == 2
    return network, (int(size[0]), int(size[1])) if pair else None


def constructor_error(error: Exception) -> str:
    """Return the message of an error of a constructor, without the values that it was given."""
    return str(error).partition("\n  Given value")[0]


def entry(settings: Any, *path: str) -> Any:
    """Return the entry of nested dicts at a path of keys, None if there is none."""
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration of the ``lightning`` command as plain data; see ``find_config``.

    Raises:
        DataError: It is absent, cannot be read, or is no mapping.
    """
    path = find_config(path)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path}: not a configuration (a YAML with model and data)")
    return settings


def _configured(spec: dict[str, Any], arguments: dict[str, Any]) -> nn.Module:
    """Build the network of a configuration as the ``lightning`` command does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network", required=True)
    spec = {**spec, "init_args": {**(spec.get("init_args") or {}), **arguments}}
    return parser.instantiate(parser.parse_object({"network": spec}))["network"]


def cost_of(
    config: Path | None,
    checkpoint: Path | None,
    num_classes: int | None = None,
    size_hw: tuple[int, int] | None = None,
) -> tuple[str, tuple[int, int], Cost]:
    """Count a network for one image; return its name, the image's size and the cost.

    The arguments are as for ``network_of``; without ``size_hw``, the image has the size of the
    configuration or the checkpoint.

    Raises:
        DataError: As for ``network_of``, or the size of the images is not known.
    """
    for device in ("meta", "cpu"):
        network, own_size_hw = network_of(config, checkpoint, num_classes, device)
        name, size = type(network).__name__, size_hw or own_size_hw
        if size is None or min(size) < 1:
            raise DataError("the size of the images is not known; give --size HEIGHT WIDTH in px")
        try:
            return name, size, count_cost(network, torch.zeros(1, 3, *size, device=device))
        except (NotImplementedError, RuntimeError):
            # A selection by value, such as of proposals, cannot run on "meta".
            if device == "cpu":
                raise
    raise AssertionError("unreachable")


WIDTH = 100
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short_count(count: int | None, digits: int = 4) -> str:
    """Format a count with some digits and a prefix, such as ``568.7 M``; "-" for None."""
    if count is None:
        return "-"
    for size, prefix in _PREFIXES:
        if count >= size:
            whole = len(str(int(count / size)))
            return f"{count / size:.{max(digits - whole, 0)}f} {prefix}"
    return f"{count}  "


def _paper(count: int | None) -> str:
    """Format a figure with the digits that the paper prints, four at most."""
    if count is None:
        return "-"
    size, prefix = next(each for each in (*_PREFIXES, (1.0, " ")) if count >= each[0])
    return f"{count / size:.4g} {prefix}"


def _difference(count: int | None, paper: int | None) -> str:
    return "" if count is None or not paper else f"{count / paper - 1:+z.1%}"


def table_text(number: int, title: str, rows: Sequence[Row]) -> str:
    """Format a table of the paper in at most 100 columns: counted, paper, difference, notes."""
    frameworks = len({row.framework for row in rows}) > 1
    labels = [f"{row.framework}  {row.model}" if frameworks else row.model for row in rows]
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    left = max(len(label) for label in labels)
    columns = f"{'counted':>10}{'paper':>10}{'differs':>9}"
    lines = [
        f"Table {number}: {title}",
        "",
        f"{'':<{left}}{'mult-adds':>19}{'':>10}{'parameters':>19}",
        f"{'':<{left}}{columns}{columns}",
    ]
    for label, row in zip(labels, rows, strict=True):
        pairs = ((row.mult_adds, row.paper_mult_adds), (row.params, row.paper_params))
        figures = "".join(
            f"{short_count(count):>10}{_paper(paper):>10}{_difference(count, paper):>9}"
            for count, paper in pairs
        )
        mark = f"  [{notes.index(row.note) + 1}]" if row.note else ""
        lines.append(f"{label:<{left}}{figures}{mark}".rstrip())
    if notes:
        lines.append("")
    for index, note in enumerate(notes, start=1):
        mark = f"[{index}] "
        lines += textwrap.wrap(note, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
    return "\n".join(lines)


def network_text(name: str, size_hw: tuple[int, int], cost: Cost, layers: bool) -> str:
    """Format the cost of a network for an image, by layer or by kind of layer."""
    rows = [(kind, *counts) for kind, counts in cost.by_kind().items()]
    if layers:
        rows = [(layer.name, layer.mult_adds, layer.params) for layer in cost.layers]
    left = max(len(label) for label, *_ in rows)
    shares = (max(cost.mult_adds, 1), max(cost.params, 1))
    lines = [
        f"{name}, one image of {size_hw[0]} x {size_hw[1]} px (height x width)",
        "",
        f"{'':<{left}}{'mult-adds':>12}{'share':>10}{'parameters':>13}{'share':>10}",
    ]
    for label, mult_adds, params in [*rows, ("total", cost.mult_adds, cost.params)]:
        lines.append(
            f"{label:<{left}}{short_count(mult_adds):>12}{mult_adds / shares[0]:>10.2%}"
            f"{short_count(params):>13}{params / shares[1]:>10.2%}"
        )
    return "\n".join(lines)
