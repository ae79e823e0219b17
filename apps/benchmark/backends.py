"""A network without resize, decoding and NMS, for its share of the machine's ceiling."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...backbone.cost import count_cost
from ...datasets.errors import DataError
from ..export.export_module import Deployable, DeployedNetwork, open_deployable
from ..export.exporting import export_checkpoint
from ..export.formats import FIXED_SHAPES, FORMATS, ExportOptions, open_format
from ..inference.runtime import EXPORTED_SUFFIXES, open_runtime
from . import loader
from .loader import Opening, open_side
from .peers import write_peer


class AloneAnswers(nn.Module):
    """All tensors that a network says, as they are.

    Args:
        network: Pixels (B, 3, h, w) uint8 to tensors, nested in any way.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, image_hw: tuple[Any, Any]) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See ``Answers``."""
        return tuple(tensors_in(self.network(pixels)))


def alone(deployable: Deployable) -> Deployable:
    """The network of a deployable, which can be exported as that can; images of its own size.

    What does not depend on the images, such as anchors, is part of the answer, too.
    """
    network = bare_network(deployable.module.answers)
    size_hw = deployable.metadata.size_hw
    module = DeployedNetwork(AloneAnswers(network), size_hw).eval()
    with torch.inference_mode():
        count = len(module(torch.zeros(1, *size_hw, 3, dtype=torch.uint8)))
    outputs = {f"output_{number}": "of the network" for number in range(count)}
    return Deployable(module, replace(deployable.metadata, job="network", outputs=outputs))


def bare_network(answers: nn.Module) -> nn.Module:
    """The network of a job, pixels (B, 3, h, w) uint8 to whatever it says, out of ``Answers``."""
    places = dict(answers.named_modules())
    return next(places[name] for name in ("network", "task.network") if name in places)


def mult_adds_of(network: nn.Module, image: Any) -> int:
    """Multiplications and additions, each pair counted once, for what the network takes."""
    with torch.inference_mode():
        return count_cost(network, image).mult_adds


def tensors_in(answer: Any) -> Iterator[Tensor]:
    """The tensors of a nested answer, in order."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, dict):
        for part in answer.values():
            yield from tensors_in(part)
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from tensors_in(part)


EAGER = "eager"
ALL = "all"
CEILING_PRECISION = "float32"
"""Precision of the reference kernel, and of the sides that are compared with it."""
_CHECKPOINT = ".ckpt"
_PRECISIONS = {".xml": ("bf16",)}
"""Suffix of an exported file -> precisions besides its own that its runtime can be asked for."""


class Side(NamedTuple):
    """One thing that is measured."""

    name: str
    """A file's name, or what the package of a peer calls it."""
    engine: str
    """What runs it: ``eager``, or the name of a format."""
    answer: Opening
    """All of it."""
    network: Opening | None = None
    """The network alone, where it can be told apart."""
    network_hw: tuple[int, int] | None = None
    """Size of the images that it takes."""
    mult_adds: int | None = None
    """Of the network for one image; None where they cannot be counted."""
    note: str = ""
    """What else is to be said."""
    answer_hw: tuple[int, int] | None = None
    """Size of the images that all of it takes; None takes any."""
    precision: str = CEILING_PRECISION
    """In which the network alone calculates."""

    @property
    def title(self) -> str:
        """Name and engine."""
        return f"{self.name}, {self.engine}"


class Made(NamedTuple):
    """What can be measured and what cannot."""

    sides: list[Side]
    """In order."""
    skipped: dict[str, str]
    """Title of what was left out -> why."""


def check_engine(engine: str) -> None:
    """Make sure that an engine is known.

    Raises:
        DataError: It is not.
    """
    known = [ALL, EAGER, *FORMATS]
    if engine not in known:
        raise DataError(f"--engine {engine}: there are {', '.join(known)}.")


def sides_of(model: Path, engine: str, folder: Path) -> Made:
    """A model in one engine or in all that are installed.

    Args:
        model: A checkpoint, which is exported for each engine, or an exported file, which has one.
        engine: ``all``, ``eager`` or the name of a format.
        folder: Where exported files go.

    Raises:
        DataError: The model cannot be read, or not be run by the engine that was asked for.
    """
    if not model.is_file():
        raise DataError(f"{model}: no such model. Give a checkpoint or an exported file.")
    if model.suffix in EXPORTED_SUFFIXES:
        made = Made([], {})
        _add_with_precisions(made, _exported_file(model, engine))
        return made
    if model.suffix != _CHECKPOINT:
        raise DataError(
            f"{model}: models are read from {', '.join([_CHECKPOINT, *EXPORTED_SUFFIXES])} files."
        )
    deployable = open_deployable(model)
    mult_adds = _mult_adds(deployable)
    made = Made([], {})
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
    """Formats for whose files there is a runtime here; the others are for other machines."""
    found = []
    for name in FORMATS:
        try:
            if open_format(name).suffix in EXPORTED_SUFFIXES:
                found.append(name)
        except DataError as error:
            print(error, file=sys.stderr)
    return found


def others(words: Sequence[str], folder: Path, candidates: int, image: np.ndarray) -> list[Side]:
    """What the model is compared with: files as ``sides_of``, networks of others by word.

    Args:
        words: Files, or words as ``write_peer`` takes them.
        folder: Where files go.
        candidates: As for ``write_peer``.
        image: Likewise.

    Raises:
        DataError: There is no such file or network.
    """
    sides: list[Side] = []
    for word in words:
        if Path(word).suffix in (_CHECKPOINT, *EXPORTED_SUFFIXES):
            own = ALL if Path(word).suffix in EXPORTED_SUFFIXES else EAGER
            sides += sides_of(Path(word), own, folder).sides
        else:
            sides.append(_peer(word, folder, candidates, image))
    return sides


def _add_with_precisions(made: Made, side: Side) -> None:
    """Add a side, and the same file in the other precisions that its runtime has here."""
    made.sides.append(side)
    for precision in _PRECISIONS.get(Path(side.answer.source).suffix, ()):
        own = _in_precision(side, precision)
        try:
            open_side(own.answer, 1)
        except DataError as error:
            made.skipped[own.title] = str(error)
        else:
            made.sides.append(own)


def _in_precision(side: Side, precision: str) -> Side:
    answer, network = (
        part and part._replace(source=f"{part.source}{loader.MARK}{precision}")
        for part in (side.answer, side.network)
    )
    assert answer is not None
    note = "answers differ more than in float32"
    return side._replace(
        engine=f"{side.engine} {precision}",
        answer=answer,
        network=network,
        note=note,
        precision=precision,
    )


def _mult_adds(deployable: Deployable) -> int:
    pixels = torch.zeros(1, 3, *deployable.metadata.size_hw, dtype=torch.uint8)
    return mult_adds_of(bare_network(deployable.module.answers), pixels)


def _exported_file(path: Path, engine: str) -> Side:
    formats = [name for name in runnable_formats() if open_format(name).suffix == path.suffix]
    own = formats[0] if formats else path.suffix
    if engine not in (ALL, own):
        raise DataError(f"{path}: is run by {own}. Leave --engine {engine} out.")
    metadata = open_runtime(path, "cpu").metadata  # says at once what is wrong with it
    taken = metadata.size_hw if own in FIXED_SHAPES else None
    return Side(path.name, own, Opening("file", str(path)), note="as it is", answer_hw=taken)


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
    told = written.differences or {}
    note = ", ".join(f"{output} {value:.2g}" for output, value in told.items())
    return Side(
        model.name,
        name,
        Opening("file", str(whole)),
        Opening("file", str(part)),
        deployable.metadata.size_hw,
        mult_adds,
        f"largest difference to torch: {note}" if note else "",
        deployable.metadata.size_hw if name in FIXED_SHAPES else None,
    )


def _peer(word: str, folder: Path, candidates: int, image: np.ndarray) -> Side:
    peer, source = write_peer(word, folder, candidates, image)
    whole = Opening("peer", str(source))
    if peer.size_hw is None:
        note = f"random weights, at most {candidates} candidates pass its threshold"
        return Side(peer.name, EAGER, whole, note=note)
    mult_adds = mult_adds_of(peer.network, torch.zeros(1, 3, *peer.size_hw))
    network = whole._replace(part="network")
    return Side(peer.name, EAGER, whole, network, peer.size_hw, mult_adds, "random weights")
