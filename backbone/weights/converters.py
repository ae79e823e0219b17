"""Conversion of published weight files, whatever their format, into networks of this package."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import WeightsError, import_extra
from ..layers import ConvNormAct, Padding, set_folded_bias
from ..mobilenet import BLOCKS, ImageClassifier, MobileNetV1
from .formats import (
    FileTensors,
    InputMetadata,
    file_format,
    read_tflite,
    read_tflite_input,
    require_plausible_size,
    require_plausible_zip,
    size_in_name,
)
from .tensorflow import read_bundle, read_graph

MOST_WIDTH = 8.0
"""The largest width multiplier that a file may have; the largest published one is 1.25."""


class PublicModel(NamedTuple):
    """A network with published weights, and what one has to know to use them."""

    path: Path
    kind: str
    """A description of the file, for people."""
    backbone: MobileNetV1
    """All 13 blocks."""
    classifier: ImageClassifier | None
    """With this backbone; None where the file has no classes."""
    backbone_arguments: dict[str, Any]
    """Arguments of the backbone, plain data."""
    head_arguments: dict[str, Any]
    """Further arguments of the classifier, plain data; empty without one."""
    pixel_mean: float
    """Taken from the uint8 pixels."""
    pixel_std: float
    """Then divided by."""
    size_hw: tuple[int, int] | None
    """Input size in pixels that the weights were trained for, where it is known; any works."""
    folded: bool
    """Batch normalization was folded into the file: call ``calibrate_norms`` before training."""
    notes: tuple[str, ...]
    """Remarks on the conversion, one sentence each."""


def new_public_model(
    path: Path,
    kind: str,
    *,
    width_mult: float,
    padding: Padding,
    norm_eps: float,
    num_classes: int | None,
    head_channels: int | None = None,
    pixel_mean: float = 127.5,
    pixel_std: float = 127.5,
    size_hw: tuple[int, int] | None = None,
    folded: bool = False,
    notes: tuple[str, ...] = (),
) -> PublicModel:
    """Make the networks, with random weights that the caller replaces; see ``PublicModel``."""
    arguments: dict[str, Any] = {
        "width_mult": width_mult, "out_strides": [32], "padding": padding, "norm_eps": norm_eps
    }  # fmt: skip
    backbone = MobileNetV1(**arguments)
    head: dict[str, Any] = {}
    classifier = None
    if num_classes is not None:
        head = {"num_classes": num_classes}
        if head_channels is not None:
            head |= {"head_channels": head_channels, "norm_eps": norm_eps}
        classifier = ImageClassifier(backbone, **head)
    return PublicModel(
        path, kind, backbone.eval(), classifier and classifier.eval(), arguments, head,
        pixel_mean, pixel_std, size_hw, folded, notes,
    )  # fmt: skip


def width_of(path: Path, channels: int) -> float:
    """Return the width multiplier of a network by the channels of its last block."""
    width_mult = channels / BLOCKS[-1][0]
    if not 1 / 32 <= width_mult <= MOST_WIDTH:
        raise WeightsError(f"{path}: the last block has {channels} channels: not a MobileNetV1")
    return width_mult


@torch.no_grad()
def take_norm(norm: nn.BatchNorm2d, tensors: FileTensors, names: tuple[str, str, str, str]) -> None:
    """Fill batch normalization: scale, shift, running mean and variance, in this order."""
    shape = (norm.num_features,)
    weight, bias, mean, variance = (tensors.take(name, shape) for name in names)
    if (variance < 0).any():
        raise WeightsError(f"{tensors.path}: {names[3]} has negative variances; it is damaged")
    norm.weight.copy_(weight)
    norm.bias.copy_(bias)
    norm.running_mean.copy_(mean)  # type: ignore[union-attr]
    norm.running_var.copy_(variance)  # type: ignore[union-attr]


def _named_layers(
    backbone: MobileNetV1, stem: str, depthwise: str, pointwise: str
) -> dict[str, ConvNormAct]:
    """Map a file's names to the convolutions; "{}" stands for the number of a block, from 1."""
    layers = {stem: backbone.stem}
    for number, block in enumerate(backbone.blocks, start=1):
        layers[depthwise.format(number)] = block.depthwise  # type: ignore[assignment]
        layers[pointwise.format(number)] = block.pointwise  # type: ignore[assignment]
    return layers


@torch.no_grad()
def take_kernel(conv: nn.Conv2d, tensors: FileTensors, scope: str, kind: str = "weights") -> None:
    """Fill a convolution from TensorFlow's layout: HWIO, or HWC1 of a depthwise kernel."""
    out_channels, per_group, height, width = conv.weight.shape
    if conv.groups > 1:
        weight = tensors.take(f"{scope}/depthwise_{kind}", (height, width, out_channels, 1))
        conv.weight.copy_(weight.permute(2, 3, 0, 1))
    else:
        weight = tensors.take(f"{scope}/{kind}", (height, width, per_group, out_channels))
        conv.weight.copy_(weight.permute(3, 2, 0, 1))


@torch.no_grad()
def _take_classes(
    linear: nn.Linear, tensors: FileTensors, kernel: str, bias: str, skip: int = 0
) -> None:
    """Fill the classifier from a 1x1 convolution (1, 1, in, out), without its first outputs."""
    columns = linear.out_features + skip
    weight = tensors.take(kernel, (1, 1, linear.in_features, columns))
    linear.weight.copy_(weight[0, 0].T[skip:])
    linear.bias.copy_(tensors.take(bias, (columns,))[skip:])


def take_tensorflow_norm(norm: nn.BatchNorm2d, tensors: FileTensors, scope: str) -> None:
    """Fill batch normalization from the names of TensorFlow and Keras."""
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (f"{scope}/{part}" for part in parts)
    take_norm(norm, tensors, (gamma, beta, mean, variance))


_KERAS_CLASSES = "conv_preds/kernel"


def read_keras(path: Path) -> PublicModel:
    """Return the network of an HDF5 file of Keras, with its classifier where it has one.

    ``save_weights`` or ``save`` of Keras 2 write such files: groups by layer, with the
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
        norm_eps=1e-3,
        num_classes=tensors.shape(_KERAS_CLASSES)[-1] if has_classes else None,
        size_hw=size_in_name(path),
        notes=("Keras pads after the end at stride 2: the same as here for maps of even size.",),
    )
    for name, layer in keras_layers(public.backbone).items():
        take_kernel(layer.conv, tensors, name, "kernel")
        take_tensorflow_norm(layer.norm, tensors, f"{name}_bn")
    if public.classifier is not None:
        _take_classes(public.classifier.classifier, tensors, _KERAS_CLASSES, "conv_preds/bias")
    tensors.require_all_used()
    return public


def keras_layers(backbone: MobileNetV1) -> dict[str, ConvNormAct]:
    """Return the convolutions by Keras' names; ``<name>_bn`` is the normalization of each."""
    return _named_layers(backbone, "conv1", "conv_dw_{}", "conv_pw_{}")


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays as ``<layer>/<weight>``, without the ":0" of TensorFlow's variables."""
    h5py = import_extra("h5py", "h5py", f"{path}: reading Keras' .h5 files")
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


SLIM_LOGITS = "MobilenetV1/Logits/Conv2d_1c_1x1"
SLIM_PREFIXES = ("", "FeatureExtractor/")  # a classifier, a detector of the Object Detection API
# The arrays of .npz files were taken out of 8-bit files, whose input is (pixel - 128) / 128.
_NPZ_PIXELS = 128.0
SLIM_FORMATS = {
    "npz": "npz", "tflite": "tflite", "graph": "frozen graph", "bundle": "checkpoint"
}  # fmt: skip
"""Format of a file with TF-slim's names -> what people call it."""
_NUMBERS = [np.dtype(name) for name in ("f2", "f4", "f8", "u1", "i1", "i2", "i4", "i8")]


class SlimFile:
    """The arrays of a file with TF-slim's names, and the metadata of its input.

    It is an ``.npz`` or a ``.tflite`` file, whose batch normalization is folded in, or a frozen
    graph or a checkpoint of TensorFlow 1.

    Raises:
        WeightsError: No such file, a damaged one or one of another kind, or no MobileNet in it.
    """

    def __init__(self, path: Path) -> None:
        kind = file_format(path)
        if kind not in SLIM_FORMATS:
            raise WeightsError(
                f"{path}: a {kind} file; TensorFlow's detectors and classifiers are read from "
                ".npz, .tflite, .pb and .index files"
            )
        self.path = path
        self.kind = SLIM_FORMATS[kind]
        """Format, for people."""
        self.notes: tuple[str, ...] = ()
        """Remarks on what was left out, one sentence each."""
        if kind in ("npz", "tflite"):
            arrays = _read_npz(path) if kind == "npz" else read_tflite(path)
        else:
            arrays, self.notes = read_graph(path) if kind == "graph" else read_bundle(path)
        self.anchors = {key: arrays.pop(key) for key in list(arrays) if key.startswith("anchors")}
        """Anchors of a detector, (A, 4) float32, see ``read_tflite``."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
        self.tensors = FileTensors(path, tensors)
        found = [p for p in SLIM_PREFIXES if f"{p}MobilenetV1/Conv2d_0/weights" in arrays]
        if not found:
            raise WeightsError(f"{path}: no MobilenetV1/Conv2d_0/weights, so this is no MobileNet")
        self.prefix = found[0]
        """Prefix of the backbone's names."""
        self.folded = f"{self.prefix}MobilenetV1/Conv2d_0/BatchNorm/gamma" not in arrays
        """Batch normalization was folded into the file."""
        if kind == "tflite":
            self.input = read_tflite_input(path)
        else:
            middle = _NPZ_PIXELS if kind == "npz" else 127.5
            self.input = InputMetadata(size_in_name(path), middle, middle)

    @property
    def is_detector(self) -> bool:
        """Whether it is a detector of the Object Detection API."""
        return self.prefix != ""

    @property
    def width_mult(self) -> float:
        """The width multiplier of its backbone."""
        last = f"{self.prefix}MobilenetV1/Conv2d_{{}}_pointwise/weights"
        if last.format(len(BLOCKS)) not in self.tensors:  # of a detector that ends at stride 16
            return width_of(self.path, 2 * self.tensors.shape(last.format(11))[-1])
        return width_of(self.path, self.tensors.shape(last.format(len(BLOCKS)))[-1])


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
        path, f"TF-slim's MobileNetV1 ({file.kind})",
        width_mult=file.width_mult, padding="same", norm_eps=1e-3, folded=file.folded,
        num_classes=None if columns is None else columns - 1,
        pixel_mean=file.input.pixel_mean, pixel_std=file.input.pixel_std,
        size_hw=file.input.size_hw,
        notes=file.notes
        + (() if columns is None else ("Class 0 of the file, background, is left out.",)),
    )  # fmt: skip
    load_slim(public.backbone, tensors, file.prefix)
    if public.classifier is not None:
        _take_classes(public.classifier.classifier, tensors, name, f"{SLIM_LOGITS}/bias", skip=1)
    if not file.is_detector:
        tensors.require_all_used()
    return public


def slim_layers(backbone: MobileNetV1) -> dict[str, ConvNormAct]:
    """Return the convolutions by their scopes in TF-slim."""
    scope = "MobilenetV1/Conv2d_"
    return _named_layers(backbone, f"{scope}0", f"{scope}{{}}_depthwise", f"{scope}{{}}_pointwise")


def load_slim(backbone: MobileNetV1, tensors: FileTensors, prefix: str) -> None:
    """Fill a backbone; the tensors that are left belong to other parts of the network."""
    for scope, layer in slim_layers(backbone).items():
        load_slim_layer(layer, tensors, prefix + scope)


def load_slim_layer(layer: ConvNormAct, tensors: FileTensors, scope: str) -> None:
    """Fill a layer from a convolution and its normalization, or from one that it is folded into."""
    take_kernel(layer.conv, tensors, scope)
    if f"{scope}/BatchNorm/gamma" in tensors:
        take_tensorflow_norm(layer.norm, tensors, f"{scope}/BatchNorm")
    else:
        set_folded_bias(layer.norm, tensors.take(f"{scope}/bias", (layer.norm.num_features,)))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an ``.npz`` file by name; arrays of pickled objects are refused."""
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


STEM = "conv_stem.weight"
_HEAD = "conv_head.weight"
_TIMM_CLASSES = "classifier.weight"
_NAMES = {1.0: "mobilenetv1_100", 1.25: "mobilenetv1_125"}


def timm_to_mobilenet(state: dict[str, Tensor], path: Path = Path("state dict")) -> PublicModel:
    """Return the network of a state dict of one of timm's three MobileNetV1 models.

    Raises:
        WeightsError: It is another network, or a tensor is missing, left over or of another shape;
            the message names ``path``.
    """
    tensors = FileTensors(path, state)
    if STEM not in tensors:
        raise WeightsError(
            f"{path}: no {STEM}: not a MobileNetV1 of timm (mobilenetv1_100, _100h or _125)"
        )
    width_mult = width_of(path, tensors.shape("blocks.4.1.conv_pw.weight")[0])
    head_channels = tensors.shape(_HEAD)[0] if _HEAD in tensors else None
    public = new_public_model(
        path,
        "timm's " + _NAMES.get(width_mult, f"MobileNetV1 of width {width_mult:g}")
        + ("" if head_channels is None else "h"),
        width_mult=width_mult,
        padding="symmetric",
        norm_eps=1e-5,
        num_classes=tensors.shape(_TIMM_CLASSES)[0] if _TIMM_CLASSES in tensors else None,
        head_channels=head_channels if _TIMM_CLASSES in tensors else None,
        size_hw=(224, 224),  # timm's input_size of all three
        notes=("Pixel mean and deviation are those of timm's configuration; the file has none.",),
    )  # fmt: skip
    for layer, conv, norm in _layers(public.backbone):
        _take_timm_layer(layer, tensors, conv, norm)
    if public.classifier is not None:
        if head_channels is not None:
            assert isinstance(public.classifier.head, ConvNormAct)
            _take_timm_layer(public.classifier.head, tensors, "conv_head", "bn2")
        linear = public.classifier.classifier
        with torch.no_grad():
            linear.weight.copy_(tensors.take(_TIMM_CLASSES, linear.weight.shape))
            linear.bias.copy_(tensors.take("classifier.bias", linear.bias.shape))
    tensors.require_all_used()
    return public


def _layers(backbone: MobileNetV1) -> list[tuple[ConvNormAct, str, str]]:
    """Return the layers with timm's names of convolution and normalization."""
    found = [(backbone.stem, "conv_stem", "bn1")]
    stage, position = 0, 0
    for block, (_, stride) in zip(backbone.blocks, BLOCKS, strict=True):
        if stride == 2:  # where timm's stages begin
            stage, position = stage + 1, 0
        scope = f"blocks.{stage}.{position}"
        found.append((block.depthwise, f"{scope}.conv_dw", f"{scope}.bn1"))  # type: ignore[arg-type]
        found.append((block.pointwise, f"{scope}.conv_pw", f"{scope}.bn2"))  # type: ignore[arg-type]
        position += 1
    return found


@torch.no_grad()
def _take_timm_layer(layer: ConvNormAct, tensors: FileTensors, conv: str, norm: str) -> None:
    layer.conv.weight.copy_(tensors.take(f"{conv}.weight", layer.conv.weight.shape))
    take_norm(
        layer.norm,
        tensors,
        (f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean", f"{norm}.running_var"),
    )
    tensors.drop(f"{norm}.num_batches_tracked")  # a counter of training
