"""The layers of an ONNX graph, and the same graph with some of them in int8.

Layers are written in the QDQ format, with pairs of QuantizeLinear and DequantizeLinear around them,
which ONNX Runtime and OpenVINO both fuse: activations uint8, one range for each tensor; weights
int8, symmetric, one scale for each output channel; biases int32. What comes after the last layers,
and the NMS of detectors, stays in float32.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

KINDS = ("Conv", "Gemm", "MatMul")
CLIPPING = ("Clip", "Relu")
_SELECTING = {"NonMaxSuppression", "TopK"}
_REARRANGING = {"Concat", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_WEIGHT_STEPS, _STEPS, _MOST_BIAS = 127, 255, 2.0**30

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
    bounds: tuple[float, float] | None
    """Of that Clip or Relu; None where neither follows."""
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
            output, bounds = _activated(model, node, values)
            layers.append(
                Layer(node.name, node.op_type, node.input[0], node.input[1], output, bounds, False)
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
    return _Writer(model, list(layers), ranges).write()


class _Writer:
    """Writes the nodes of a graph again, with pairs around some layers."""

    def __init__(self, model: onnx.ModelProto, layers: list[Layer], ranges: Ranges) -> None:
        self._model, self._ranges, self._values = model, ranges, constants(model)
        self._layers = {layer.name: layer for layer in layers}
        self._outputs = {layer.output: layer for layer in layers if not layer.is_last}
        self._nodes: list[onnx.NodeProto] = []
        self._fixed: dict[str, onnx.TensorProto] = {}
        self._pairs: dict[str, str] = {}  # tensor -> the same behind its pair

    def write(self) -> onnx.ModelProto:
        public = {each.name for each in self._model.graph.output}
        for original in self._model.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            layer = self._layers.get(node.name)
            for place, name in enumerate(node.input):
                if name in self._outputs:
                    node.input[place] = self._pairs[name]
            if layer:
                self._quantize(node, layer)
            name = node.output[0]
            if name in self._outputs and name not in public and self._is_idle(node):
                self._add_pair(name, node.input[0])
                continue
            self._nodes.append(node)
            for name in node.output:
                if name in self._outputs:
                    self._add_pair(name, name)
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        del result.graph.node[:], result.graph.value_info[:]
        result.graph.node.extend(self._nodes)
        result.graph.initializer.extend(self._fixed.values())
        return without_unused(result)

    def _is_idle(self, node: onnx.NodeProto) -> bool:
        """Whether rounding to the steps of the output clips at least as much as a node does."""
        layer = self._outputs[node.output[0]]
        if node.op_type not in CLIPPING or layer.bounds is None:
            return False
        scale, zero = scale_of(*self._ranges[layer.output])
        least, most = -zero * scale, (_STEPS - zero) * scale
        slack = scale / 2
        return least >= layer.bounds[0] - slack and most <= layer.bounds[1] + slack

    def _quantize(self, node: onnx.NodeProto, layer: Layer) -> None:
        if node.input[0] == layer.source:
            if layer.source not in self._pairs:
                self._add_pair(layer.source, layer.source)
            node.input[0] = self._pairs[layer.source]
        source_scale, _ = scale_of(*self._ranges[layer.source])
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in self._values else ""
        weight = numpy_helper.to_array(self._values[layer.weight])
        axis = channel_axis(node)
        scales = weight_scales(weight, axis)
        if bias:
            values = numpy_helper.to_array(self._values[bias]).ravel()
            # A channel of next to no weight would make its bias too large for 32 bits.
            scales = np.maximum(scales, np.abs(values) / (source_scale * _MOST_BIAS))
            scales = scales.astype(np.float32)
            bias_scales = (scales * np.float32(source_scale)).astype(np.float32)
            rounded = np.round(values / bias_scales.astype(np.float64)).astype(np.int32)
            node.input[2] = self._add_fixed(f"{layer.name}.bias", rounded, bias_scales, 0)
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        whole = np.round(weight / scales.reshape(shape)).astype(np.int8)
        node.input[1] = self._add_fixed(f"{layer.name}.weight", whole, scales, axis)

    def _add_pair(self, name: str, source: str) -> None:
        scale, zero = scale_of(*self._ranges[name])
        self._store(f"{name}.scale", np.array(scale, np.float32))
        self._store(f"{name}.zero", np.array(zero, np.uint8))
        both = [f"{name}.scale", f"{name}.zero"]
        steps, back = f"{name}.steps", f"{name}.quantized"
        self._nodes += [
            helper.make_node("QuantizeLinear", [source, *both], [steps], f"{name}.q"),
            helper.make_node("DequantizeLinear", [steps, *both], [back], f"{name}.dq"),
        ]
        self._pairs[name] = back

    def _add_fixed(self, name: str, whole: np.ndarray, scales: np.ndarray, axis: int) -> str:
        self._store(f"{name}.steps", whole)
        self._store(f"{name}.scales", scales)
        self._store(f"{name}.zeros", np.zeros(len(scales), whole.dtype))
        inputs = [f"{name}.{part}" for part in ("steps", "scales", "zeros")]
        back = f"{name}.quantized"
        self._nodes.append(
            helper.make_node("DequantizeLinear", inputs, [back], f"{name}.dq", axis=axis)
        )
        return back

    def _store(self, name: str, value: np.ndarray) -> None:
        self._fixed[name] = numpy_helper.from_array(value, name)


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the fixed tensors that no node reads, in place."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {each.name for each in model.graph.output}
    for node in model.graph.node:
        for attribute in node.attribute:  # bodies read tensors of the graph around them
            used |= {name for inner in attribute.g.node for name in inner.input}
    kept = [each for each in model.graph.initializer if each.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def scale_of(least: float, most: float) -> tuple[float, int]:
    """Step and zero point of a range in uint8; zero itself is always met."""
    least, most = min(float(least), 0.0), max(float(most), 0.0)
    scale = float(np.float32((most - least) / _STEPS)) or 1.0
    return scale, int(np.clip(round(-least / scale), 0, _STEPS))


def weight_scales(weight: np.ndarray, axis: int) -> np.ndarray:
    """Step of each channel in int8: (C,) float32."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    scales = (np.abs(weight).max(axis=others) / _WEIGHT_STEPS).astype(np.float32)
    return np.where(scales > 0, scales, np.float32(1))


def channel_axis(node: onnx.NodeProto) -> int:
    """Axis of a layer's weight that counts its outputs."""
    turned = any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if node.op_type == "Conv" or turned else 1


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


def _activated(
    model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, onnx.TensorProto]
) -> tuple[str, tuple[float, float] | None]:
    """Tensor behind the Clip or Relu that alone reads a layer's output, and its bounds."""
    (output,) = node.output
    readers = [each for each in model.graph.node if output in each.input]
    if len(readers) != 1 or readers[0].op_type not in CLIPPING:
        return output, None
    ends = [-np.inf, np.inf] if readers[0].op_type == "Clip" else [0.0, np.inf]
    for place, name in enumerate(readers[0].input[1:]):
        if name and name not in values:
            return output, None
        if name:
            ends[place] = float(numpy_helper.to_array(values[name]))
    return readers[0].output[0], (ends[0], ends[1])
