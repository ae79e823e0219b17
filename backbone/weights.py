"""From public weight files to a backbone: explicit names, strict, hashed.

Every array of the file's MobileNet is used, every parameter is set, every shape is compared.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .errors import WeightsError
from .hub import resolve_weights
from .layers import ConvNormAct
from .mobilenet import ImageClassifier, MobileNetV1
from .norms import set_folded_bias
from .tflite import read_tflite

__all__ = [
    "LoadedWeights",
    "WeightsError",
    "load_classifier",
    "load_folded_layer",
    "load_slim",
    "load_weights",
    "read_arrays",
    "slim_layers",
]


class LoadedWeights(NamedTuple):
    """What ``load_weights`` did."""

    path: Path
    folded: bool
    """Batch normalisation was folded into the file: call ``calibrate_norms`` before training."""


def load_weights(backbone: MobileNetV1, path: str | Path) -> LoadedWeights:
    """Fill a backbone from a weight file, in place.

    Args:
        backbone: The network to fill; its width must be the file's.
        path: A public name (see ``backbone.hub.PUBLIC_WEIGHTS``) that was downloaded, a ``.npz``
            or ``.tflite`` file with TF-slim names and folded normalisation, or a checkpoint
            (``.ckpt``) of this package whose network holds such a backbone.

    Raises:
        WeightsError: No such name or file, an unknown kind of file, an array missing, left over or
            of another shape.
    """
    path = resolve_weights(path)
    if path.suffix == ".ckpt":
        _load_checkpoint(backbone, path)
        return LoadedWeights(path, folded=False)
    load_slim(backbone, read_arrays(path), path)
    return LoadedWeights(path, folded=True)


def load_classifier(path: str | Path, width_mult: float) -> ImageClassifier:
    """Return an ImageNet classifier (1,000 classes, TensorFlow padding) from a TF-slim file.

    ``path`` is a public name, a ``.npz`` or a ``.tflite`` file, as for ``load_weights``. The file's
    class 0 is "background" and is left out, so that output k is ImageNet class k.

    Raises:
        WeightsError: as ``load_weights``.
    """
    path = resolve_weights(path)
    arrays = read_arrays(path)
    model = ImageClassifier(MobileNetV1(width_mult=width_mult, out_strides=(32,), padding="same"))
    assert isinstance(model.backbone, MobileNetV1)
    load_slim(model.backbone, arrays, path)
    weight = arrays.pop(f"{SLIM_LOGITS}/weights", None)
    bias = arrays.pop(f"{SLIM_LOGITS}/bias", None)
    if weight is None or bias is None:
        raise WeightsError(f"{path}: no classifier in this file ({SLIM_LOGITS}/weights)")
    _copy(model.classifier.weight, weight[0, 0].T[1:], f"{SLIM_LOGITS}/weights", path)
    _copy(model.classifier.bias, bias[1:], f"{SLIM_LOGITS}/bias", path)
    return model


SLIM_LOGITS = "MobilenetV1/Logits/Conv2d_1c_1x1"
SLIM_PREFIXES = ("", "FeatureExtractor/")  # a classifier, a detector of the Object Detection API


def slim_layers(backbone: MobileNetV1) -> dict[str, ConvNormAct]:
    """TF-slim's scope for each convolution of the backbone."""
    layers = {"Conv2d_0": backbone.stem}
    for number, block in enumerate(backbone.blocks, start=1):
        layers[f"Conv2d_{number}_depthwise"] = block.depthwise  # type: ignore[assignment]
        layers[f"Conv2d_{number}_pointwise"] = block.pointwise  # type: ignore[assignment]
    return {f"MobilenetV1/{name}": layer for name, layer in layers.items()}


def load_slim(backbone: MobileNetV1, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Take the backbone's arrays out of ``arrays``; what is left belongs to other parts.

    Raises:
        WeightsError: An array is missing or has another shape, or there is no MobileNet.
    """
    prefix = next((p for p in SLIM_PREFIXES if f"{p}MobilenetV1/Conv2d_0/weights" in arrays), None)
    if prefix is None:
        raise WeightsError(f"{path}: no MobilenetV1/Conv2d_0/weights, so this is no MobileNet")
    for scope, layer in slim_layers(backbone).items():
        load_folded_layer(layer, arrays, prefix + scope, path)


@torch.no_grad()
def load_folded_layer(
    layer: ConvNormAct, arrays: dict[str, np.ndarray], scope: str, path: Path
) -> None:
    """Take one folded convolution out of ``arrays`` (weights in TensorFlow's layout, and bias).

    Pointwise and full kernels are HWIO, depthwise ones HWC1 and called ``depthwise_weights``.

    Raises:
        WeightsError: An array is missing or has another shape.
    """
    depthwise = layer.conv.groups > 1
    name = f"{scope}/{'depthwise_weights' if depthwise else 'weights'}"
    weight, bias = arrays.pop(name, None), arrays.pop(f"{scope}/bias", None)
    if weight is None or bias is None:
        raise WeightsError(f"{path}: {name if weight is None else scope + '/bias'} is missing")
    _copy(
        layer.conv.weight, weight.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)), name, path
    )
    if bias.shape != (layer.norm.num_features,):
        raise WeightsError(f"{path}: {scope}/bias has shape {bias.shape}")
    set_folded_bias(layer.norm, torch.from_numpy(bias))


@torch.no_grad()
def _copy(target: Tensor, array: np.ndarray, name: str, path: Path) -> None:
    if tuple(target.shape) != array.shape:
        raise WeightsError(
            f"{path}: {name} has shape {array.shape}, the network wants {tuple(target.shape)}; "
            "does width_mult fit this file?"
        )
    target.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a ``.npz`` or ``.tflite`` file by TF-slim's names.

    Raises:
        WeightsError: No such file, a damaged one or one of another kind.
    """
    readers = {".npz": _read_npz, ".tflite": read_tflite}
    if path.suffix not in readers:
        raise WeightsError(
            f"{path}: weights are read from .npz, .tflite and .ckpt files, not {path.suffix!r}"
        )
    return readers[path.suffix](path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file by name; arrays of pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise WeightsError(f"no weights at {path}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: not a readable .npz file ({error})") from error


def _load_checkpoint(backbone: nn.Module, path: Path) -> None:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except Exception as error:  # torch.load raises many kinds for a broken file
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from error
    marker = "backbone."
    own = {
        key.split(marker, 1)[1]: value for key, value in state.items() if f".{marker}" in f".{key}"
    }
    try:
        backbone.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: the backbone of this checkpoint does not fit: {error}"
        ) from error
