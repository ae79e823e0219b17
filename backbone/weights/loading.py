"""Load backbones from published weight files and from checkpoints of this package, strictly.

Formats are recognized by content: TF-slim's arrays (``.npz``, ``.tflite``, ``.pb``, ``.index``),
Keras' ``.h5``, timm's ``.safetensors``, ``.pth`` or ``.bin``, and checkpoints of this package
(``.ckpt``). Every array of the file's MobileNet is used, every parameter is set, every shape is
compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..layers import Activation, set_folded_bias
from ..mobilenet import BLOCKS, ImageClassifier, MobileNetV1, scale_channels
from .converters import (
    MOST_WIDTH,
    SLIM_FORMATS,
    PublicModel,
    read_keras,
    read_slim,
    timm_to_mobilenet,
)
from .converters import STEM as TIMM_STEM
from .formats import file_format, load_torch_file, read_state_dict
from .hub import resolve_weights

_STEM = "stem.conv.weight"
_PREFIXES = ("network.backbone.", "backbone.", "")
_ENTRY = "mobilevision"  # metadata in checkpoints of this package


class LoadedWeights(NamedTuple):
    """The result of ``load_weights``."""

    path: Path
    folded: bool
    """Batch normalization was folded into the file: call ``calibrate_norms`` before training."""
    activation: Activation = "relu6"
    """Activation that the weights were trained with; a backbone with another has to be trained."""


class _StoredBackbone(NamedTuple):
    """The backbone in a weight file."""

    state: dict[str, Tensor]
    arguments: dict[str, Any] | None
    """Arguments of the backbone; None where the checkpoint does not have them."""
    folded: bool


def load_weights(backbone: nn.Module, path: str | Path) -> LoadedWeights:
    """Fill a backbone from a weight file, in place.

    A ``MobileNetV1`` takes files of all formats; blocks of the file past its last one are left
    out. Any other backbone takes its own state dict, or a checkpoint of this package whose
    network holds such a backbone.

    Args:
        backbone: The network to fill; its width and padding must be the file's, and unless
            normalization is folded in, its ``norm_eps``.
        path: A public name (see ``backbone.weights.hub``) that was downloaded, or a file.

    Raises:
        WeightsError: No such name or file, an unknown format, a tensor missing, left over or of
            another shape, or other conventions. Another activation is no error.
    """
    path = resolve_weights(path)
    if not isinstance(backbone, MobileNetV1):
        _fill_other(backbone, path)
        return LoadedWeights(path, folded=False)
    state, arguments, folded = _read_backbone(path)
    if arguments is not None:
        _require_same_conventions(backbone, arguments, folded, path)
    _fill(backbone, state, path)
    if folded:  # the scale that does nothing depends on epsilon, which may be another
        for norm in backbone.modules():
            if isinstance(norm, nn.BatchNorm2d):
                set_folded_bias(norm, norm.bias.clone())
    return LoadedWeights(path, folded, (arguments or {}).get("activation", "relu6"))


def load_pretrained(
    name_or_path: str | Path, out_strides: Sequence[int] = (16, 32)
) -> tuple[MobileNetV1, LoadedWeights]:
    """Make the backbone of a weight file, with its weights, in evaluation mode.

    Raises:
        WeightsError: As ``load_weights``, or a checkpoint does not describe its backbone.
    """
    path = resolve_weights(name_or_path)
    arguments = _read_backbone(path).arguments
    if arguments is None:
        raise WeightsError(
            f"{path}: does not describe its backbone; it was trained from Python "
            "with objects. Make a MobileNetV1 as it was and fill it with load_weights(backbone, "
            "path)"
        )
    try:
        backbone = MobileNetV1(**{**arguments, "out_strides": tuple(out_strides)})
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: no backbone can be made from its description ({error})"
        ) from error
    return backbone.eval(), load_weights(backbone, path)


def load_classifier(path: str | Path, width_mult: float | None = None) -> ImageClassifier:
    """Return the classifier of a published weight file, in evaluation mode; no checkpoint.

    Raises:
        WeightsError: As ``load_weights``, there is no classifier in the file, or its width is not
            ``width_mult`` (None takes what it is).
    """
    public = read_public(resolve_weights(path))
    if public.classifier is None:
        raise WeightsError(f"{public.path}: no classifier in this file, only a backbone")
    if width_mult not in (None, public.backbone.width_mult):
        raise WeightsError(
            f"{public.path}: its width_mult is {public.backbone.width_mult:g}, not {width_mult:g}"
        )
    return public.classifier


def read_public(path: Path) -> PublicModel:
    """Read a published weight file of any of the formats; of a detector its backbone.

    Raises:
        WeightsError: No such file, an unknown kind of file, or its content does not fit.
    """
    kind = file_format(path)
    if kind in SLIM_FORMATS:
        return read_slim(path)
    if kind == "hdf5":
        return read_keras(path)
    return timm_to_mobilenet(read_state_dict(path), path)


def imagenet_names() -> list[str]:
    """Return the names of ImageNet's 1,000 classes, in the order of published weights."""
    from torchvision.models import MobileNet_V2_Weights

    return list(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


def _read_backbone(path: Path) -> _StoredBackbone:
    content = own_content(path)
    if content is not None:
        return _own_backbone(content, path)
    public = read_public(path)
    return _StoredBackbone(public.backbone.state_dict(), public.backbone_arguments, public.folded)


def own_content(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint of this package; None for files of other kinds.

    It has a ``state_dict`` of plain tensors and tables ``hyper_parameters`` and ``mobilevision``,
    which may be empty.

    Raises:
        WeightsError: It is damaged, or holds something else.
    """
    if file_format(path) != "torch":
        return None
    content = load_torch_file(path)
    state = content.get("state_dict")
    if not isinstance(state, dict) or TIMM_STEM in state:
        return None
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError(f"{path}: its state_dict holds something else than named tensors")
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise WeightsError(f"{path}: {name} is no plain array of numbers")
    for entry in ("hyper_parameters", _ENTRY):
        if not isinstance(content.setdefault(entry, {}), dict):
            raise WeightsError(f"{path}: its {entry} are a {type(content[entry]).__name__}")
    return content


def _own_backbone(content: dict[str, Any], path: Path) -> _StoredBackbone:
    state: dict[str, Tensor] = content["state_dict"]
    prefixes = [name.removesuffix(_STEM) for name in state if name.endswith(f".{_STEM}")]
    # A teacher may lie beside the network.
    prefixes.sort(key=lambda prefix: (not prefix.startswith("network."), len(prefix)))
    if not prefixes:
        raise WeightsError(f"{path}: the network of this checkpoint has no MobileNetV1 backbone")
    prefix = prefixes[0]
    own = {name[len(prefix) :]: x for name, x in state.items() if name.startswith(prefix)}
    try:
        arguments = _arguments(content["hyper_parameters"].get("network"))
    except RecursionError as error:
        raise WeightsError(f"{path}: what describes its network nests without end") from error
    if arguments is not None:
        _require_numbers(arguments, path)
    provenance = content[_ENTRY].get("provenance")
    folded = isinstance(provenance, dict) and bool(provenance.get("folded"))
    # Once trained further, the statistics are measured ones.
    unmeasured = all(not value.any() for name, value in own.items() if "running_mean" in name)
    return _StoredBackbone(own, arguments, folded and unmeasured)


def _arguments(spec: Any) -> dict[str, Any] | None:
    """Return the arguments of the first MobileNetV1 in the description of a network."""
    if not isinstance(spec, dict):
        return None
    inside = spec.get("init_args")
    if not isinstance(inside, dict):
        inside = {}
    if str(spec.get("class_path", "")).rpartition(".")[2] == MobileNetV1.__name__:
        return dict(inside)
    for value in inside.values():
        found = _arguments(value)
        if found is not None:
            return found
    return None


def _require_numbers(arguments: dict[str, Any], path: Path) -> None:
    """Refuse a width that would fill the memory, and what cannot be compared."""
    for name, most in (("width_mult", MOST_WIDTH), ("norm_eps", 1.0)):
        value = arguments.get(name, most)
        if type(value) not in (int, float) or not 0 < value <= most:
            raise WeightsError(
                f"{path}: {name}={value!r:.40}, wanted is a number above 0 and up to {most:g}; "
                "the file is damaged"
            )


def _require_same_conventions(
    backbone: MobileNetV1, arguments: dict[str, Any], folded: bool, path: Path
) -> None:
    padding, norm_eps = backbone.stem.conv.kind, backbone.stem.norm.eps
    wanted = {"width_mult": 1.0, "padding": "same", "norm_eps": 1e-3} | arguments
    widths = (wanted["width_mult"], backbone.width_mult)
    if len({scale_channels(BLOCKS[-1][0], width) for width in widths}) > 1:
        raise WeightsError(
            f"{path}: these weights are for width_mult={widths[0]:g}, the backbone has "
            f"width_mult={widths[1]:g}; set it to the file's"
        )
    if padding != wanted["padding"] or (not folded and norm_eps != wanted["norm_eps"]):
        raise WeightsError(
            f"{path}: these weights are for padding={wanted['padding']!r} and "
            f"norm_eps={wanted['norm_eps']:g}, the backbone has padding={padding!r} and "
            f"norm_eps={norm_eps:g}; set them to the same"
        )


@torch.no_grad()
def _fill(backbone: MobileNetV1, state: dict[str, Tensor], path: Path) -> None:
    last = len(backbone.blocks)
    known = backbone.state_dict()
    for name, target in known.items():
        if name not in state:
            raise WeightsError(f"{path}: {name} is missing; it is of another network")
        if state[name].shape != target.shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the backbone wants "
                f"{tuple(target.shape)}; it is of another variant (convolution, shallow)"
            )
    for name in state.keys() - known.keys():
        number = name.split(".")[1] if name.startswith("blocks.") else ""
        if not number.isdecimal() or int(number) < last:
            raise WeightsError(f"{path}: {name} has no place in this backbone")
    backbone.load_state_dict({name: state[name] for name in known})


def _fill_other(backbone: nn.Module, path: Path) -> None:
    """Fill a backbone that no published format is for, from its own names."""
    kind = type(backbone).__name__
    if file_format(path) in ("hdf5", *SLIM_FORMATS):
        raise WeightsError(f"{path}: these weights are for MobileNetV1, not for {kind}")
    state = read_state_dict(path)
    wanted = backbone.state_dict()
    # A checkpoint has the backbone within its network; a teacher may lie beside it.
    fitting = (each for each in _PREFIXES if any(each + name in state for name in wanted))
    prefix = next(fitting, "")
    missing = [name for name in wanted if prefix + name not in state]
    if missing:
        raise WeightsError(f"{path}: {missing[0]} is missing; it is of another network than {kind}")
    try:
        backbone.load_state_dict({name: state[prefix + name] for name in wanted})
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit {kind}: {error}") from error
