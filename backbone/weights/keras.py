"""Weights of Keras applications' MobileNet (``mobilenet_1_0_224_tf.h5`` and its like).

Keras pads one row and column after the picture at stride 2 and then convolves without padding. On
even sizes that is TensorFlow's SAME, so ``padding="same"`` is exact for every map of even size; an
odd map would be padded at both ends by SAME and after its end by Keras.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import WeightsError
from ..layers import ConvNormAct
from ..mobilenet import MobileNetV1
from .file_tensors import FileTensors, require_plausible_size, size_in_name
from .public_model import PublicModel, new_public_model, take_norm, width_of

_KERAS_CLASSES = "conv_preds/kernel"
_KERAS_EPS = 1e-3
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def read_keras(path: Path) -> PublicModel:
    """Return the network of an HDF5 file of Keras, with its classifier where it has one.

    Args:
        path: What ``save_weights`` or ``save`` of Keras 2 wrote: groups by layer, with the
            attributes ``layer_names`` and ``weight_names``.

    Raises:
        WeightsError: No such file, a damaged one, another network, a tensor is missing, left over
            or of another shape, or the package ``h5py`` is not installed.
    """
    tensors = FileTensors(path, {k: torch.from_numpy(v) for k, v in _read_hdf5(path).items()})
    if "conv1/kernel" not in tensors or "conv_pw_13/kernel" not in tensors:
        raise WeightsError(
            f"{path}: no layers conv1 and conv_pw_13: not a MobileNet of Keras applications"
        )
    has_classes = _KERAS_CLASSES in tensors
    public = new_public_model(
        path,
        "Keras applications' MobileNet",
        width_mult=width_of(path, tensors.shape("conv_pw_13/kernel")[-1]),
        padding="same",
        norm_eps=_KERAS_EPS,
        num_classes=tensors.shape(_KERAS_CLASSES)[-1] if has_classes else None,
        size_hw=size_in_name(path),
        notes=("Keras pads after the end at stride 2: the same as here for maps of even size.",),
    )
    for name, layer in keras_layers(public.backbone).items():
        _take_keras_layer(layer, tensors, name)
    if public.classifier is not None:
        linear = public.classifier.classifier
        weight = tensors.take(_KERAS_CLASSES, (1, 1, linear.in_features, linear.out_features))
        with torch.no_grad():
            linear.weight.copy_(weight[0, 0].T)
            linear.bias.copy_(tensors.take("conv_preds/bias", linear.bias.shape))
    tensors.require_all_used()
    return public


def keras_layers(backbone: MobileNetV1) -> dict[str, ConvNormAct]:
    """Keras' name for each convolution of the backbone; ``<name>_bn`` is its normalisation."""
    layers = {"conv1": backbone.stem}
    for number, block in enumerate(backbone.blocks, start=1):
        layers[f"conv_dw_{number}"] = block.depthwise  # type: ignore[assignment]
        layers[f"conv_pw_{number}"] = block.pointwise  # type: ignore[assignment]
    return layers


@torch.no_grad()
def _take_keras_layer(layer: ConvNormAct, tensors: FileTensors, name: str) -> None:
    depthwise = layer.conv.groups > 1
    out_channels, per_group, height, width = layer.conv.weight.shape
    if depthwise:
        weight = tensors.take(f"{name}/depthwise_kernel", (height, width, out_channels, 1))
        layer.conv.weight.copy_(weight.permute(2, 3, 0, 1))
    else:
        weight = tensors.take(f"{name}/kernel", (height, width, per_group, out_channels))
        layer.conv.weight.copy_(weight.permute(3, 2, 0, 1))
    gamma, beta, mean, variance = (f"{name}_bn/{part}" for part in _NORM)
    take_norm(layer, tensors, (gamma, beta, mean, variance))


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The arrays as ``<layer>/<weight>``, without the ":0" of TensorFlow's variables."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading Keras' .h5 files needs the package h5py: "
            "pip install 'mobilevision[keras]'"
        ) from error
    arrays: dict[str, np.ndarray] = {}
    declared = 0
    try:
        with h5py.File(path, "r") as file:
            root: Any = file.get("model_weights", file)  # where save() puts what save_weights() has
            if "layer_names" not in root.attrs:
                raise WeightsError(
                    f"{path}: no attribute layer_names: not what Keras 2's save_weights writes "
                    "(Keras 3 has another layout)"
                )
            for layer in map(_text, root.attrs["layer_names"]):
                for name in map(_text, root[layer].attrs["weight_names"]):
                    short = name.rpartition("/")[2].partition(":")[0]
                    declared += root[layer][name].nbytes
                    require_plausible_size(path, declared, path.stat().st_size)
                    arrays[f"{layer}/{short}"] = np.array(root[layer][name])
    except WeightsError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise WeightsError(f"{path}: a damaged HDF5 file ({error}); download it again") from error
    return arrays


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
