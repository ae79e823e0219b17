"""Weights with TF-slim's names and batch normalisation folded in: ``.npz`` and ``.tflite`` files.

Every array of the file's MobileNet is used, every parameter is set, every shape is compared.
"""

from pathlib import Path

import numpy as np
import torch

from ..errors import WeightsError
from ..layers import ConvNormAct
from ..mobilenet import MobileNetV1
from ..norms import set_folded_bias
from .file_tensors import FileTensors, file_format, require_plausible_zip, size_in_name
from .public_model import PublicModel, new_public_model, width_of
from .tflite import InputFacts, read_tflite, read_tflite_input

SLIM_LOGITS = "MobilenetV1/Logits/Conv2d_1c_1x1"
SLIM_PREFIXES = ("", "FeatureExtractor/")  # a classifier, a detector of the Object Detection API
_LAST = "MobilenetV1/Conv2d_13_pointwise/weights"
# The arrays of .npz files were taken out of 8-bit files, whose input is (pixel - 128) / 128.
_NPZ_PIXELS = 128.0
_NUMBERS = [np.dtype(name) for name in ("f2", "f4", "f8", "u1", "i1", "i2", "i4", "i8")]


class SlimFile:
    """A file's arrays, and what it says of its input.

    Args:
        path: An ``.npz`` or a ``.tflite`` file.

    Raises:
        WeightsError: No such file, a damaged one or one of another kind, or no MobileNet in it.
    """

    def __init__(self, path: Path) -> None:
        readers = {"npz": _read_npz, "tflite": read_tflite}
        kind = file_format(path)
        if kind not in readers:
            raise WeightsError(
                f"{path}: a {kind} file; TensorFlow's detectors and folded classifiers are read "
                "from .npz and .tflite files"
            )
        self.path = path
        self.kind = kind
        arrays = readers[kind](path)
        anchors = {name: array for name, array in arrays.items() if name.startswith("anchors")}
        self.anchors: dict[str, np.ndarray] = anchors
        """Of a detector: (A, 4) float32, see ``read_tflite``."""
        self.tensors = FileTensors(
            path,
            {
                name: torch.from_numpy(np.ascontiguousarray(array))
                for name, array in arrays.items()
                if name not in anchors
            },
        )
        found = [p for p in SLIM_PREFIXES if f"{p}MobilenetV1/Conv2d_0/weights" in arrays]
        if not found:
            raise WeightsError(f"{path}: no MobilenetV1/Conv2d_0/weights, so this is no MobileNet")
        self.prefix = found[0]
        """What stands before the backbone's names."""
        if kind == "tflite":
            self.input = read_tflite_input(path)
        else:
            self.input = InputFacts(size_in_name(path), _NPZ_PIXELS, _NPZ_PIXELS)

    @property
    def is_detector(self) -> bool:
        """Whether it is a detector of the Object Detection API."""
        return self.prefix != ""

    @property
    def width_mult(self) -> float:
        """The width multiplier of its backbone."""
        return width_of(self.path, self.tensors.shape(self.prefix + _LAST)[-1])


def read_slim(path: Path) -> PublicModel:
    """Return the backbone of a file, and its ImageNet classifier where it has one.

    TensorFlow padding. The file's class 0 is "background" and is left out, so that output k is
    ImageNet class k.

    Raises:
        WeightsError: as ``SlimFile``, or an array is missing, left over or of another shape.
    """
    file = SlimFile(path)
    tensors, name = file.tensors, f"{SLIM_LOGITS}/weights"
    columns = tensors.shape(name)[-1] if name in tensors else None
    public = new_public_model(
        path,
        f"TF-slim's MobileNetV1 ({file.kind})",
        width_mult=file.width_mult,
        padding="same",
        norm_eps=1e-3,
        num_classes=None if columns is None else columns - 1,
        pixel_mean=file.input.pixel_mean,
        pixel_std=file.input.pixel_std,
        size_hw=file.input.size_hw,
        folded=True,
        notes=() if columns is None else ("Class 0 of the file, background, is left out.",),
    )
    load_slim(public.backbone, tensors, file.prefix)
    if public.classifier is not None and columns is not None:
        linear = public.classifier.classifier
        weight = tensors.take(name, (1, 1, linear.in_features, columns))
        with torch.no_grad():
            linear.weight.copy_(weight[0, 0].T[1:])
            linear.bias.copy_(tensors.take(f"{SLIM_LOGITS}/bias", (columns,))[1:])
    if not file.is_detector:
        tensors.require_all_used()
    return public


def slim_layers(backbone: MobileNetV1) -> dict[str, ConvNormAct]:
    """TF-slim's scope for each convolution of the backbone."""
    layers = {"Conv2d_0": backbone.stem}
    for number, block in enumerate(backbone.blocks, start=1):
        layers[f"Conv2d_{number}_depthwise"] = block.depthwise  # type: ignore[assignment]
        layers[f"Conv2d_{number}_pointwise"] = block.pointwise  # type: ignore[assignment]
    return {f"MobilenetV1/{name}": layer for name, layer in layers.items()}


def load_slim(backbone: MobileNetV1, tensors: FileTensors, prefix: str) -> None:
    """Take the backbone's tensors; what is left belongs to other parts.

    Raises:
        WeightsError: A tensor is missing or has another shape.
    """
    for scope, layer in slim_layers(backbone).items():
        load_folded_layer(layer, tensors, prefix + scope)


@torch.no_grad()
def load_folded_layer(layer: ConvNormAct, tensors: FileTensors, scope: str) -> None:
    """Take one folded convolution (weights in TensorFlow's layout, and bias).

    Pointwise and full kernels are HWIO, depthwise ones HWC1 and called ``depthwise_weights``.

    Raises:
        WeightsError: A tensor is missing or has another shape.
    """
    depthwise = layer.conv.groups > 1
    out_channels, per_group, height, width = layer.conv.weight.shape
    if depthwise:
        shape, order = (height, width, out_channels, 1), (2, 3, 0, 1)
    else:
        shape, order = (height, width, per_group, out_channels), (3, 2, 0, 1)
    weight = tensors.take(f"{scope}/{'depthwise_weights' if depthwise else 'weights'}", shape)
    layer.conv.weight.copy_(weight.permute(order))
    set_folded_bias(layer.norm, tensors.take(f"{scope}/bias", (layer.norm.num_features,)))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file by name; arrays of pickled objects are refused."""
    require_plausible_zip(path, path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a damaged file
        raise WeightsError(f"{path}: not a readable .npz file ({error})") from error
    for name, array in arrays.items():  # an entry that is no .npy file is bytes
        if not isinstance(array, np.ndarray) or array.dtype not in _NUMBERS:
            raise WeightsError(f"{path}: {name} is no array of numbers; it is of another kind")
    return arrays
