"""TensorFlow Lite files as named float arrays, in the names and layouts of TF-slim.

The public MobileNetV1 classifiers and SSD detectors are published in this format, as float32 and
with 8-bit weights. Their tensors keep TF-slim's scopes in their names, and batch normalisation is
folded in. A file's structure is read with the package ``tflite`` (the format's flatbuffer schema),
which the extra ``tflite`` installs.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import WeightsError
from .file_tensors import require_plausible_size

_MAGIC = b"TFL3"  # at byte 4, see the schema's file_identifier
# What a name says after its scope: ".../weights", ".../weights_quant/FakeQuantWithMinMaxVars",
# ".../depthwise_weights", ".../weights/read".
_SCOPE = re.compile(r"(?P<scope>.+?)/(?:depthwise_)?weights(?:[/_].*)?")
# Flatbuffers check nothing when a file is opened: damage shows where something is read.
_DAMAGE = (struct.error, ValueError, IndexError, TypeError, AttributeError, OverflowError)


class InputFacts(NamedTuple):
    """What a network wants to be given."""

    size_hw: tuple[int, int] | None
    """Height and width in pixels; None where nothing says it."""
    pixel_mean: float
    """Taken from the uint8 pixels."""
    pixel_std: float
    """Then divided by."""


def read_tflite(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of a file's convolutions, named and laid out as in TF-slim.

    Weights stored in 8 bits, and their 32-bit biases, are dequantised to
    ``scale * (stored - zero_point)``, one scale for a tensor or one for each channel (Jacob et al.
    2018, arXiv 1712.05877, equation 1).

    Returns:
        float32 arrays: ``<scope>/weights`` (height, width, in, out) of a convolution,
        ``<scope>/depthwise_weights`` (height, width, channels, 1) of a depthwise one, and
        ``<scope>/bias`` (out,) of each; of a detector also ``anchors`` (A, 4), centre y, centre x,
        height, width as fractions of the picture, called ``anchors_quantised`` where they are
        rounded to 8 bits.

    Raises:
        WeightsError: No such file, not a TensorFlow Lite file or a damaged one, one without named
            convolutions, or the package ``tflite`` is not installed.
    """
    data, schema = _open(path)
    try:
        arrays: dict[str, np.ndarray] = {}
        unpacked = 0
        for name, array in _named_arrays(schema, data):
            arrays[name] = array
            unpacked += array.nbytes  # many tensors may share one buffer of the file
            require_plausible_size("its tensors", unpacked, len(data))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise WeightsError(
            f"{path}: a damaged TensorFlow Lite file ({error}); download it again"
        ) from error
    if not any(name.endswith("weights") for name in arrays):
        raise WeightsError(
            f"{path}: no convolution has TF-slim's names in this file; a model that was converted "
            "from Keras or compiled for an accelerator cannot be read"
        )
    return arrays


def read_tflite_input(path: Path) -> InputFacts:
    """Return what a file says of its input: its size, and how stored pixels are numbers.

    An 8-bit input stands for ``scale * (pixel - zero_point)``. Of a float one the file says
    nothing; TF-slim and the Object Detection API take ``pixel / 127.5 - 1``.

    Raises:
        WeightsError: as ``read_tflite``, or the input is no single RGB picture.
    """
    data, schema = _open(path)
    try:
        graph = schema.Model.GetRootAsModel(data, 0).Subgraphs(0)
        tensor = graph.Tensors(graph.Inputs(0))
        shape = [int(size) for size in tensor.ShapeAsNumpy()]
        quantisation = tensor.Quantization()
        stored = tensor.Type() == schema.TensorType.UINT8
        if stored and quantisation is not None and quantisation.ScaleLength() == 1:
            mean, std = float(quantisation.ZeroPoint(0)), 1.0 / float(quantisation.Scale(0))
        else:
            mean = std = 127.5
    except _DAMAGE as error:
        raise WeightsError(
            f"{path}: a damaged TensorFlow Lite file ({error}); download it again"
        ) from error
    if len(shape) != 4 or shape[3] != 3:
        raise WeightsError(f"{path}: its input has shape {shape} and is no RGB picture")
    return InputFacts((shape[1], shape[2]), mean, std)


def _open(path: Path) -> tuple[bytes, Any]:
    """The file's bytes and the package that understands them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no weights at {path} ({error.strerror})") from error
    if data[4:8] != _MAGIC:
        raise WeightsError(f"{path}: not a TensorFlow Lite file; download it again")
    return data, _import_schema(path)


def _import_schema(path: Path) -> Any:
    try:
        import tflite
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading .tflite files needs the package tflite: "
            "pip install 'mobilevision[tflite]'"
        ) from error
    return tflite


def _named_arrays(schema: Any, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    names = {
        schema.BuiltinOperator.CONV_2D: "weights",
        schema.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise_weights",
    }
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Newer files have the code in both fields, older ones in the one now deprecated.
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind not in names:
            continue
        inputs = operator.InputsAsNumpy().tolist()
        weights = graph.Tensors(inputs[1])
        match = _SCOPE.fullmatch(weights.Name().decode())
        if match is None:
            continue
        # TensorFlow puts a scope inside one of the same name where a network is called in it.
        scope = match["scope"].replace("MobilenetV1/MobilenetV1/", "MobilenetV1/")
        if len(inputs) < 3 or inputs[2] < 0:
            raise WeightsError(f"the convolution {scope} has no bias, so it was not folded")
        kernel = _dequantised(schema, model, weights)
        yield f"{scope}/{names[kind]}", kernel.transpose(1, 2, 3, 0)  # from OHWI, or 1HWC
        yield f"{scope}/bias", _dequantised(schema, model, graph.Tensors(inputs[2]))
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        if tensor.Name() == b"anchors":
            exact = tensor.Type() == schema.TensorType.FLOAT32
            yield ("anchors" if exact else "anchors_quantised"), _dequantised(schema, model, tensor)


def _dequantised(schema: Any, model: Any, tensor: Any) -> np.ndarray:
    """The values of a constant tensor as float32, in its own shape."""
    types = {
        schema.TensorType.FLOAT32: "<f4",
        schema.TensorType.UINT8: "u1",
        schema.TensorType.INT8: "i1",
        schema.TensorType.INT32: "<i4",
    }
    name = tensor.Name().decode()
    if tensor.Type() not in types:
        raise WeightsError(
            f"the tensor {name} is of the schema's type {tensor.Type()}; float32 and 8-bit "
            "weights can be read"
        )
    shape = tensor.ShapeAsNumpy()
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy().view(types[tensor.Type()]).reshape(shape)
    if tensor.Type() == schema.TensorType.FLOAT32:
        return stored.astype(np.float32)
    quantisation = tensor.Quantization()
    if quantisation is None or quantisation.ScaleLength() == 0:
        raise WeightsError(f"the tensor {name} holds integers without a scale")
    scale, zero_point = quantisation.ScaleAsNumpy(), quantisation.ZeroPointAsNumpy()
    if len(scale) > 1:
        along = np.ones(len(shape), int)
        along[quantisation.QuantizedDimension()] = -1
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    return ((stored.astype(np.int64) - zero_point) * scale).astype(np.float32)
