"""Fine-tuning: start a network from the weights of another, and keep parts of it as they are."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, cast
from unicodedata import normalize

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbone.errors import WeightsError
from ..backbone.layers import set_folded_bias
from ..backbone.mobilenet import ClassRows, MobileNetV1
from ..backbone.weights.hub import resolve_weights
from ..backbone.weights.loading import (
    LoadedWeights,
    imagenet_names,
    load_weights,
    own_content,
    read_public,
)
from ..datasets.errors import DataError
from .checkpoint import CHECKPOINT_ENTRY, check_hyper_parameters
from .detection.weights import is_detector, read_detector
from .face_detection.weights import is_retinaface

OUTCOMES = ("loaded", "adapted", "new", "left")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SHOWN_NAMES = 6


class Start(NamedTuple):
    """What ``start_from`` did."""

    backbone: nn.Module
    """The module that the file's backbone filled; see ``LoadedWeights.folded`` for it."""
    weights: LoadedWeights
    folded: list[nn.BatchNorm2d]
    """Further layers of the network whose normalization was folded in: calibrate them as well."""
    table: str
    """What was loaded, adapted, new and left, as text."""


class _Source(NamedTuple):
    """A whole network in a file."""

    state: dict[str, Tensor]
    names: list[str]
    """Names of its classes, in their order; empty where the file has none."""
    score_activation: str | None
    """None where the file does not say."""
    folded: bool
    remark: str = ""
    """Why the file gives less than it holds."""


class _Counts(dict[tuple[str, str], list[int]]):
    """(part, outcome) -> number of tensors and of their numbers; statistics do not count."""

    def add(self, part: str, outcome: str, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not name.endswith(_STATISTICS):
                cell = self.setdefault((part, outcome), [0, 0])
                cell[0] += 1
                cell[1] += tensor.numel()


def start_from(network: nn.Module, names: Sequence[str], weights: str | Path) -> Start:
    """Fill a network with whatever fits of a weight file, in place.

    The backbone of the file has to fit as a whole; blocks past its last one start new. Of the rest
    of a network that the file holds, each layer whose tensors have the same names and shapes is
    loaded. A layer of classes
    (``ImageNetwork.class_layers``) takes the rows of the classes that have its names, whatever
    their order and case, and of background; the rows of other classes stay as the network
    initialized them. Scores of another kind are converted: a sigmoid's logits are those of a
    softmax whose background is 0, and a softmax's become a sigmoid's where the background's are
    subtracted. Both are exact for a single class.

    Args:
        network: Any network of this package, or one with a ``backbone``.
        names: Names of its classes, in their order.
        weights: A public name that was downloaded, a published file or a checkpoint.

    Raises:
        WeightsError: See ``load_weights``; a ``CheckpointError`` where a checkpoint names classes
            that are not allowed.
    """
    path = resolve_weights(weights)
    source = _read_source(path, isinstance(_body(network), MobileNetV1))
    backbone = _pretrained_part(network, source)
    loaded = load_weights(backbone, path)
    counts = _Counts()
    done = {id(tensor) for tensor in backbone.state_dict(keep_vars=True).values()}
    known = network.state_dict(keep_vars=True)
    for name, tensor in known.items():
        if id(tensor) in done:
            counts.add(_part(name), "loaded", {name: tensor})
    prefix = _backbone_prefix(source.state)
    used = {f"{prefix}{name}" for name in backbone.state_dict()}
    filling = _Filling(network, list(names), source, counts)
    for layer, tensors in _layers(network, {n: t for n, t in known.items() if id(t) not in done}):
        used |= filling.fill(layer, tensors)
    for name in sorted(source.state.keys() - used):
        counts.add(filling.part(name.rpartition(".")[0]), "left", {name: source.state[name]})
    title = f"Weights from {path}"
    table = "\n".join([title, *_format(counts), *filling.remarks()])
    return Start(backbone, loaded, filling.folded, table)


class _Filling:
    """Fills the layers of a network that are not its backbone."""

    def __init__(
        self, network: nn.Module, names: list[str], source: _Source, counts: _Counts
    ) -> None:
        self.network = network
        self.class_layers: dict[str, ClassRows] = getattr(network, "class_layers", dict)()
        self.names = names
        self.source = source
        self.counts = counts
        self.score_activation = getattr(network, "score_activation", "softmax")
        self.folded: list[nn.BatchNorm2d] = []
        self.meets_classes = False
        """Whether the file has a layer of classes of the network's."""
        places = {_key(name): index for index, name in reversed([*enumerate(source.names)])}
        self.pairs = [
            (index, places[_key(name)]) for index, name in enumerate(names) if _key(name) in places
        ]
        """Classes that both know, as indices of the network and of the file."""

    def fill(self, layer: str, tensors: dict[str, Tensor]) -> set[str]:
        """Fill a layer; the names of the tensors of the file that were used."""
        state, outcome = self.source.state, "new"
        if layer in self.class_layers:
            if tensors.keys() <= state.keys():
                self.meets_classes = bool(self.source.names)
                outcome = self._fill_classes(self.class_layers[layer], tensors)
        elif all(name in state and state[name].shape == x.shape for name, x in tensors.items()):
            outcome = "loaded"
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(state[name])
            self._find_folded(layer)
        self.counts.add(self.part(layer), outcome, tensors)
        return set() if outcome == "new" else set(tensors)

    def part(self, layer: str) -> str:
        """Return the part of the table that a layer belongs to."""
        return f"{_part(layer)}, classes" if layer in self.class_layers else _part(layer)

    def _find_folded(self, layer: str) -> None:
        for norm in self.network.get_submodule(layer).modules() if self.source.folded else ():
            # Once trained further, the statistics are measured ones.
            if isinstance(norm, nn.BatchNorm2d) and not cast(Tensor, norm.running_mean).any():
                set_folded_bias(norm, norm.bias.clone())
                self.folded.append(norm)

    @torch.no_grad()
    def _fill_classes(self, rows: ClassRows, tensors: dict[str, Tensor]) -> str:
        groups = []
        for name, tensor in tensors.items():
            new = self._grouped(tensor, rows, self.names)
            old = self._grouped(self.source.state[name], rows, self.source.names)
            if new is None or old is None or new[:, 0].shape != old[:, 0].shape:
                return "new"
            groups.append((new, old))
        converted = rows.background and self._converts
        if not self.pairs and (converted or not rows.background):
            return "new"
        for new, old in groups:
            self._copy_rows(new, old, rows)
        same = self.names == self.source.names and not converted
        return "loaded" if same else "adapted"

    @property
    def _converts(self) -> bool:
        return self.source.score_activation not in (None, self.score_activation)

    def _grouped(self, rows_of: Tensor, rows: ClassRows, names: list[str]) -> Tensor | None:
        """View (rows, ...) as (groups, background and classes, rows of a class, ...), if it fits.

        A tensor without further dimensions is the bias.
        """
        columns = rows.background + len(names)
        if not names or rows_of.ndim == 0 or len(rows_of) % (columns * rows.each):
            return None
        return rows_of.view(-1, columns, rows.each, *rows_of.shape[1:])

    def _copy_rows(self, new: Tensor, old: Tensor, rows: ClassRows) -> None:
        first = int(rows.background)
        here = [first + index for index, _ in self.pairs]
        fresh = [index for index in range(first, new.shape[1]) if index not in here]
        taken = old[:, [first + index for _, index in self.pairs]].to(new.dtype)
        if rows.background:
            before = new[:, :1].clone()
            if self._converts:
                background = torch.zeros_like(before)
                if self.score_activation == "sigmoid":
                    taken, background = taken - old[:, :1], before
            else:
                background = old[:, :1].to(new.dtype)
            new[:, :1] = background
            if new.ndim == 3 and self.score_activation == "softmax":
                # By their biases new classes stay as rare beside background as they were.
                new[:, fresh] += background - before
        new[:, here] = taken

    def remarks(self) -> Iterator[str]:
        """Yield lines on the classes, the kind of scores, and what could not be used."""
        if self.source.remark:
            yield f"  {self.source.remark}"
        if not self.meets_classes:
            return
        known = {index for index, _ in self.pairs}
        found = [name for index, name in enumerate(self.names) if index in known]
        fresh = [name for index, name in enumerate(self.names) if index not in known]
        yield (
            f"  classes: {len(found)} of {len(self.names)} are among the file's "
            f"{len(self.source.names)}{_listed(found)}; new: {len(fresh)}{_listed(fresh)}"
        )
        if self._converts:
            rows = (
                "the rows of the classes were converted" if found else "background starts new, too"
            )
            yield (
                f"  scores: the file's are {self.source.score_activation}, the network's "
                f"{self.score_activation}; {rows}"
            )


def _listed(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _SHOWN_NAMES else ""
    return f" ({', '.join(names[:_SHOWN_NAMES])}{more})"


def _key(name: str) -> str:
    """Return a name without what depends on the tool: case, and how accents are encoded."""
    return normalize("NFC", normalize("NFC", name).casefold())


def _part(name: str) -> str:
    return name.partition(".")[0]


def _layers(
    network: nn.Module, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield tensors by layer: a convolution and its normalization belong together."""
    owners = {
        name.rpartition(".")[0]
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
    }
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        parent = module.rpartition(".")[0]
        layers.setdefault(parent if parent in owners and parent else module, {})[name] = tensor
    yield from layers.items()


def _format(counts: _Counts) -> Iterator[str]:
    parts = list(dict.fromkeys(part for part, _ in counts))
    rows = [["tensors (parameters)", *OUTCOMES]]
    for part in parts:
        cells = [counts.get((part, outcome)) for outcome in OUTCOMES]
        rows.append([part, *(f"{cell[0]} ({cell[1]:,})" if cell else "-" for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        aligned = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"  {row[0].ljust(widths[0])}  {'  '.join(aligned)}"


# --- reading


def _read_source(path: Path, mobilenet: bool) -> _Source:
    """Read the network of a file, of a published one if it is a ``mobilenet``."""
    content = own_content(path)
    if content is not None:
        check_hyper_parameters(content, path)
        own = "network."
        state = {
            name.removeprefix(own): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith(own)
        }
        stored, entry = content["hyper_parameters"], content[CHECKPOINT_ENTRY]
        provenance = entry.get("provenance")
        folded = isinstance(provenance, dict) and bool(provenance.get("folded"))
        return _Source(state, _stored_names(stored, entry), _stored_activation(stored), folded)
    if not mobilenet:
        return _Source({}, [], None, folded=False)
    if is_retinaface(path):
        raise WeightsError(
            f"{path}: a whole face detector; make it a checkpoint to start from: `mobilevision "
            f"import {path} --out retinaface.ckpt`, then model.weights=retinaface.ckpt"
        )
    if is_detector(path):
        return _read_detector(path)
    classifier = read_public(path).classifier
    if classifier is None:
        return _Source({}, [], None, folded=False)
    names = imagenet_names()
    known = len(names) == classifier.classifier.out_features
    return _Source(classifier.state_dict(), names if known else [], None, folded=False)


def _read_detector(path: Path) -> _Source:
    try:
        public = read_detector(path)
    except WeightsError as error:  # its backbone may still fit
        remark = (
            f"its backbone alone, as `mobilevision import` has to make it a checkpoint: {error}"
        )
        return _Source({}, [], None, folded=False, remark=remark)
    names = list(public.categories.values())
    activation = public.network.score_activation
    return _Source(public.network.state_dict(), names, activation, bool(public.metadata["folded"]))


def _stored_names(stored: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Return the names of the classes; of geolocation, the cells of all partitions."""
    tables = entry.get("cells")
    if isinstance(tables, list):
        tokens = (table.get("tokens", ()) for table in tables if isinstance(table, dict))
        return [str(token) for each in tokens for token in each]
    categories = stored.get("categories")
    return [str(name) for name in categories.values()] if isinstance(categories, dict) else []


def _stored_activation(stored: dict[str, Any]) -> str | None:
    network = stored.get("network")
    if not isinstance(network, dict):
        return None
    arguments = network.get("init_args")
    found = arguments.get("score_activation") if isinstance(arguments, dict) else None
    return found if isinstance(found, str) else "softmax"


def _backbone_prefix(state: Mapping[str, Tensor]) -> str:
    inner = "backbone.body."
    return inner if any(name.startswith(inner) for name in state) else "backbone."


def _body(network: nn.Module) -> nn.Module:
    """Return the backbone, or the one that it is built around."""
    backbone = cast(nn.Module, network.backbone)
    return cast(nn.Module, getattr(backbone, "body", backbone))


def _pretrained_part(network: nn.Module, source: _Source) -> nn.Module:
    """Return the module that the backbone of a file fills.

    A network whose blocks beyond the backbone have pretrained weights too has a method
    ``pretrained_body``, for files that do not have these blocks by the network's own names.
    """
    make = getattr(network, "pretrained_body", None)
    if make is None:
        return _first_blocks(_body(network), source)
    body = cast(nn.Module, make())
    own = {id(tensor) for tensor in _body(network).parameters()}
    beyond = {id(tensor) for tensor in body.parameters()} - own
    named = {name for name, tensor in network.named_parameters() if id(tensor) in beyond}
    return _first_blocks(_body(network), source) if named <= source.state.keys() else body


def _first_blocks(body: nn.Module, source: _Source) -> nn.Module:
    """Return a MobileNet without the blocks past the file's last one, such as Faster R-CNN's."""
    blocks = f"{_backbone_prefix(source.state)}blocks."
    inside = (name for name in source.state if name.startswith(blocks))
    count = len({name.removeprefix(blocks).partition(".")[0] for name in inside})
    if not isinstance(body, MobileNetV1) or not 0 < count < len(body.blocks):
        return body
    part = copy(body)
    part._modules = {"stem": body.stem, "blocks": body.blocks[:count]}
    return part


# --- freezing


def frozen_modules(network: nn.Module, freeze: str) -> list[nn.Module]:
    """Return the modules of a network that training leaves as they are.

    Args:
        network: A network with a ``backbone``.
        freeze: ``backbone``; ``stage:N`` for the backbone's layers up to stride 2^N, where it has
            ``stages``; ``norms`` for all batch normalization.

    Raises:
        DataError: Another value, with those that there are.
    """
    if freeze == "norms":
        return [module for module in network.modules() if isinstance(module, _BatchNorm)]
    body = _body(network)
    stages: list[list[nn.Module]] = getattr(body, "stages", [])
    choices: dict[str, list[nn.Module]] = {"backbone": [body]}
    for number in range(1, len(stages) + 1):
        choices[f"stage:{number}"] = [layer for stage in stages[:number] for layer in stage]
    if freeze not in choices:
        raise DataError(
            f"freeze={freeze}: there is no such part; choose among "
            f"{', '.join(['norms', *choices])}, or null to train everything"
        )
    return choices[freeze]
