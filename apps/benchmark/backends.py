"""The sides of a benchmark: a model in every runtime, its network alone, and its peers."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...backbone.cost import count_cost
from ...backbone.weights.hub import PUBLIC_WEIGHTS
from ...datasets.errors import DataError
from ..export.export_module import Deployable, DeployedNetwork, open_deployable
from ..export.exporting import export_checkpoint
from ..export.formats import FIXED_SHAPES, FORMATS, ExportOptions, open_format
from ..inference.runtime import EXPORTED_SUFFIXES, open_runtime
from ..public import find_model
from . import loader
from .loader import Opening, open_side
from .peers import write_peer


class BareNetwork(nn.Module):
    """A network, pixels (B, 3, h, w) uint8 to nested tensors, without resize, decoding and NMS."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, image_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return all tensors of the output; the size of the images is not used."""
        return tuple(tensors_in(self.network(pixels)))


def alone(deployable: Deployable) -> Deployable:
    """Return the network of a deployable alone, for export; it takes images of its own size.

    Its outputs include tensors that do not depend on the images, such as anchors.
    """
    size_hw = deployable.metadata.size_hw
    module = DeployedNetwork(BareNetwork(bare_network(deployable)), size_hw).eval()
    with torch.inference_mode():
        count = len(module(torch.zeros(1, *size_hw, 3, dtype=torch.uint8)))
    outputs = {f"output_{number}": "of the network" for number in range(count)}
    return Deployable(module, replace(deployable.metadata, job="network", outputs=outputs))


def bare_network(deployable: Deployable) -> nn.Module:
    """Return the network of a job without its adapter: pixels (B, 3, h, w) uint8 to any output."""
    places = dict(deployable.module.adapted.named_modules())
    return next(places[name] for name in ("network", "task.network") if name in places)


def tensors_in(output: Any) -> list[Tensor]:
    """Return the tensors of a nested output, in order."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


EAGER = "eager"
ALL = "all"
CEILING_PRECISION = "float32"
"""Precision of the reference kernel, and of the sides that are compared with it."""
_CHECKPOINT = ".ckpt"
_PRECISIONS = {".xml": ("bf16",)}
"""Suffix of an exported file -> additional precisions that its runtime supports."""


class Side(NamedTuple):
    """A model in a runtime, which is measured."""

    name: str
    """Name of its file, or of the model in a peer's package."""
    engine: str
    """``eager``, or the name of a format."""
    whole: Opening
    """The whole model, with resize and NMS."""
    network: Opening | None = None
    """The network alone, if it can be separated."""
    network_hw: tuple[int, int] | None = None
    """Image size of the network alone."""
    mult_adds: int | None = None
    """Mult-adds of the network for one image; None if they cannot be counted."""
    note: str = ""
    """A remark for the report."""
    whole_hw: tuple[int, int] | None = None
    """Image size of the whole model; None takes any."""
    precision: str = CEILING_PRECISION
    """Precision of the network alone."""

    @property
    def title(self) -> str:
        """Name and engine."""
        return f"{self.name}, {self.engine}"


class Made(NamedTuple):
    """The sides that can be measured, and those that cannot."""

    sides: list[Side]
    skipped: dict[str, str]
    """Title of a side -> the reason why it is left out."""


def check_engine(engine: str) -> None:
    """Raise a DataError if an engine is not known."""
    known = [ALL, EAGER, *FORMATS]
    if engine not in known:
        raise DataError(f"--engine {engine}: there are {', '.join(known)}.")


def sides_of(model: str | Path, engine: str, folder: Path) -> Made:
    """Prepare a model in one engine or in all that are installed.

    A checkpoint is exported to ``folder`` for each engine; an exported file has one engine.

    Raises:
        DataError: The model cannot be read, or not be run by the engine.
    """
    model = find_model(model, hint="Give a checkpoint or an exported file.")
    made = Made([], {})
    if model.suffix in EXPORTED_SUFFIXES:
        _add_with_precisions(made, _exported_file(model, engine))
        return made
    if model.suffix != _CHECKPOINT:
        raise DataError(
            f"{model}: models are read from {', '.join([_CHECKPOINT, *EXPORTED_SUFFIXES])} files."
        )
    deployable = open_deployable(model)
    pixels = torch.zeros(1, 3, *deployable.metadata.size_hw, dtype=torch.uint8)
    mult_adds = count_cost(bare_network(deployable), pixels).mult_adds
    if engine in (ALL, EAGER):
        made.sides.append(_eager(model, deployable, mult_adds))
    for name in runnable_formats() if engine == ALL else {engine} - {EAGER}:
        try:
            _add_with_precisions(made, _in_format(model, name, folder, deployable, mult_adds))
        except DataError as error:
            if engine != ALL:
                raise
            made.skipped[f"{model.name}, {name}"] = str(error)
    return made


def runnable_formats() -> list[str]:
    """Return the formats whose files can run here; the others are for other machines."""
    found = []
    for name in FORMATS:
        try:
            if open_format(name).suffix in EXPORTED_SUFFIXES:
                found.append(name)
        except DataError as error:
            print(error, file=sys.stderr)
    return found


def others(words: Sequence[str], folder: Path, candidates: int, image: np.ndarray) -> list[Side]:
    """Prepare the models to compare with: own ones as in ``sides_of``, others as in ``write_peer``.

    Raises:
        DataError: There is no such file or network.
    """
    sides: list[Side] = []
    for word in words:
        if word in PUBLIC_WEIGHTS or Path(word).suffix in (_CHECKPOINT, *EXPORTED_SUFFIXES):
            own = ALL if Path(word).suffix in EXPORTED_SUFFIXES else EAGER
            sides += sides_of(word, own, folder).sides
        else:
            sides.append(_peer(word, folder, candidates, image))
    return sides


def _add_with_precisions(made: Made, side: Side) -> None:
    """Add a side, and the same file in the other precisions that its runtime supports here."""
    made.sides.append(side)
    for precision in _PRECISIONS.get(Path(side.whole.source).suffix, ()):
        own = _in_precision(side, precision)
        try:
            open_side(own.whole, 1)
        except DataError as error:
            made.skipped[own.title] = str(error)
        else:
            made.sides.append(own)


def _in_precision(side: Side, precision: str) -> Side:
    parts = {
        name: opening._replace(source=f"{opening.source}{loader.MARK}{precision}")
        for name, opening in (("whole", side.whole), ("network", side.network))
        if opening is not None
    }
    note, engine = "outputs differ more than in float32", f"{side.engine} {precision}"
    return side._replace(**parts, engine=engine, note=note, precision=precision)


def _exported_file(path: Path, engine: str) -> Side:
    formats = [name for name in runnable_formats() if open_format(name).suffix == path.suffix]
    own = formats[0] if formats else path.suffix
    if engine not in (ALL, own):
        raise DataError(f"{path}: is run by {own}. Leave --engine {engine} out.")
    metadata = open_runtime(path, "cpu").metadata  # fails early if the file is unusable
    taken = metadata.size_hw if own in FIXED_SHAPES else None
    return Side(path.name, own, Opening("file", str(path)), note="as it is", whole_hw=taken)


def _eager(model: Path, deployable: Deployable, mult_adds: int) -> Side:
    whole = Opening("checkpoint", str(model))
    network = whole._replace(part="network")
    return Side(model.name, EAGER, whole, network, deployable.metadata.size_hw, mult_adds)


def _in_format(
    model: Path, name: str, folder: Path, deployable: Deployable, mult_adds: int
) -> Side:
    chosen = open_format(name)
    if chosen.suffix not in EXPORTED_SUFFIXES:
        raise DataError(f"--engine {name}: nothing here runs {chosen.suffix} files.")
    whole = folder / name / f"{model.stem}{chosen.suffix}"
    written = export_checkpoint(model, whole, name)
    part = folder / name / f"{model.stem}_network{chosen.suffix}"
    chosen.write(alone(deployable), part, ExportOptions(any_image=False))
    differences = (written.differences or {}).items()
    note = ", ".join(f"{output} {value:.2g}" for output, value in differences)
    note = f"largest difference to torch: {note}" if note else ""
    size_hw = deployable.metadata.size_hw
    return Side(
        model.name, name, Opening("file", str(whole)), Opening("file", str(part)), size_hw,
        mult_adds, note, whole_hw=size_hw if name in FIXED_SHAPES else None,
    )  # fmt: skip


def _peer(word: str, folder: Path, candidates: int, image: np.ndarray) -> Side:
    peer, source = write_peer(word, folder, candidates, image)
    whole = Opening("peer", str(source))
    if peer.size_hw is None:
        note = f"random weights, at most {candidates} candidates pass its threshold"
        return Side(peer.name, EAGER, whole, note=note)
    mult_adds = count_cost(peer.network, torch.zeros(1, 3, *peer.size_hw)).mult_adds
    network = whole._replace(part="network")
    return Side(peer.name, EAGER, whole, network, peer.size_hw, mult_adds, "random weights")
