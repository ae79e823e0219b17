"""The layers of an ONNX graph, and the same graph with some of them in int8.

ONNX Runtime's own quantizer writes the layers in the QDQ format, with pairs of QuantizeLinear and
DequantizeLinear around them, which ONNX Runtime and OpenVINO both fuse: activations uint8, one
range for each tensor; weights int8, symmetric, one scale for each output channel; biases int32.
What comes after the last layers, and the NMS of detectors, stays in float32.
"""

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData

KINDS = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Clip", "Relu")
_SELECTING = {"NonMaxSuppression", "TopK"}
_REARRANGING = {"Concat", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"}

Ranges = Mapping[str, tuple[float, float]]
"""Tensor -> least and largest value."""


class Layer(NamedTuple):
    """A layer with fixed weights."""

    name: str
    """Of its node."""
    kind: str
    source: str
    """Tensor that goes in."""
    weight: str
    output: str
    """Tensor that comes out, behind the Clip or Relu that follows directly."""
    is_last: bool
    """Whether no other layer comes behind."""


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """List the layers that can be in int8, in their order: those before any NMS."""
    values = constants(model)
    layers: list[Layer] = []
    behind: dict[str, set[str]] = {}  # tensor -> layers that lead to it
    after_choice: set[str] = set()
    has_next: set[str] = set()
    for node in model.graph.node:
        above = set().union(*(behind.get(name, set()) for name in node.input))
        if node.op_type in _SELECTING or after_choice & set(node.input):
            after_choice |= set(node.output)
        elif _is_layer(node, values):
            has_next |= above
            above = {node.name}
            output = _activated(model, node)
            layers.append(
                Layer(node.name, node.op_type, node.input[0], node.input[1], output, False)
            )
        behind |= dict.fromkeys(node.output, above)
    return [layer._replace(is_last=layer.name not in has_next) for layer in layers]


def answers_of(model: onnx.ModelProto, layers: Iterable[Layer]) -> list[str]:
    """Tensors that the last layers answer with, before anything is calculated of them.

    One layer may give several, such as the offsets and the logits of boxes.
    """
    said = {layer.output for layer in layers if layer.is_last}
    passed_on: set[str] = set()
    for node in model.graph.node:
        given = set(node.input if node.op_type == "Concat" else node.input[:1])  # others are sizes
        if node.op_type in _REARRANGING and given <= said:
            said |= set(node.output)
            passed_on |= given
    return sorted(said - passed_on)


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Name -> fixed tensor."""
    found = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def without_rest(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """Return the part of a graph that leads to some of its tensors, which become its outputs."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    wanted, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(reversed(kept))
    part.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
    )
    fixed = [each for each in model.graph.initializer if each.name in wanted]
    del part.graph.initializer[:]
    part.graph.initializer.extend(fixed)
    return part


def quantized(model: onnx.ModelProto, layers: Iterable[Layer], ranges: Ranges) -> onnx.ModelProto:
    """Return a copy of a graph with these layers in int8.

    Args:
        model: Stays as it is.
        layers: Of ``find_layers``.
        ranges: Of the tensors that go into them, and that come out of all but the last.
    """
    layers = list(layers)
    if not layers:
        return copy.deepcopy(model)
    limits: dict[str, Any] = {
        name: TensorData(lowest=np.float32(least), highest=np.float32(most))
        for name, (least, most) in ranges.items()
    }
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),  # tensors of no known type would stay as they are
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[layer.name for layer in layers],
        nodes_to_exclude=[],
        op_types_to_quantize=list(KINDS),
        extra_options={"OpTypesToExcludeOutputQuantization": list(KINDS)},
    )
    # What comes out of the last layers stays in float32; the runtimes need the others' outputs in
    # uint8, behind the activation, to calculate these layers in int8.
    for layer in layers:
        if not layer.is_last:
            quantizer.quantize_activation_tensor(layer.output)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result = quantizer.model.model
    del result.graph.value_info[:]
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    return result


def _is_layer(node: onnx.NodeProto, values: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type not in KINDS or node.input[1] not in values or node.input[0] in values:
        return False
    plain = {"alpha": 1.0, "beta": 1.0}
    if any(each.f != plain.get(each.name, each.f) for each in node.attribute):
        return False
    if any(each.name == "transA" and each.i for each in node.attribute):
        return False
    weight = values[node.input[1]]
    flat = node.op_type == "MatMul" and len(weight.dims) != 2
    return weight.data_type == onnx.TensorProto.FLOAT and not flat


def _activated(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Tensor that comes out of a layer, behind the Clip or Relu that alone reads it."""
    (output,) = node.output
    readers = [each for each in model.graph.node if output in each.input]
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
        return readers[0].output[0]
    return output
