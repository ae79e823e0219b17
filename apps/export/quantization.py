"""Quantization of ONNX graphs to int8, calibrated on images, with a report on each layer."""

import copy
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically, write_atomically
from ...datasets.images import ImageFile
from .export_module import Deployable
from .formats import Calibration

KINDS = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Clip", "Relu")
_SELECTING = {"NonMaxSuppression", "TopK"}
_REARRANGING = {"Concat", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"}

Ranges = Mapping[str, tuple[float, float]]
"""Tensor -> least and largest value."""


class Layer(NamedTuple):
    """A layer with constant weights."""

    name: str
    """Name of its node."""
    kind: str
    source: str
    """Input tensor."""
    weight: str
    output: str
    """Output tensor, after the Clip or Relu that follows directly."""
    is_last: bool
    """Whether no other layer follows."""


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """List the layers that can be quantized, in their order: those before any NMS."""
    values = constants(model)
    layers: list[Layer] = []
    sources: dict[str, set[str]] = {}  # tensor -> the nearest layers before it
    after_selection: set[str] = set()
    has_next: set[str] = set()
    for node in model.graph.node:
        above = set().union(*(sources.get(name, set()) for name in node.input))
        if node.op_type in _SELECTING or after_selection & set(node.input):
            after_selection |= set(node.output)
        elif _is_layer(node, values):
            has_next |= above
            above = {node.name}
            tensors = (node.input[0], node.input[1], _activated(model, node))
            layers.append(Layer(node.name, node.op_type, *tensors, is_last=False))
        sources |= dict.fromkeys(node.output, above)
    return [layer._replace(is_last=layer.name not in has_next) for layer in layers]


def outputs_of(model: onnx.ModelProto, layers: Iterable[Layer]) -> list[str]:
    """List the output tensors of the last layers, before anything is calculated from them.

    One layer may have several, such as the offsets and the logits of boxes. Operators that only
    rearrange values are followed, so that the outputs are compared in their final parts.
    """
    found = {layer.output for layer in layers if layer.is_last}
    passed_on: set[str] = set()
    for node in model.graph.node:
        given = set(node.input if node.op_type == "Concat" else node.input[:1])  # others are sizes
        if node.op_type in _REARRANGING and given <= found:
            found |= set(node.output)
            passed_on |= given
    return sorted(found - passed_on)


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the constant tensors by name."""
    found = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def without_rest(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """Return the part of a graph before some of its tensors, which become its outputs."""
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
    """Return a copy of a graph with some of its layers in int8.

    The ranges are those of the layers' inputs, and of the outputs of all but the last.
    """
    layers = list(layers)
    if not layers:
        return copy.deepcopy(model)
    limits: dict[str, Any] = {
        name: TensorData(lowest=np.float32(least), highest=np.float32(most))
        for name, (least, most) in ranges.items()
    }
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),  # tensors of unknown type are not quantized
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
    # The runtimes run a layer in int8 only if its output, after the activation, is quantized. The
    # outputs of the last layers stay in float32.
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
    """Return whether a node is a plain layer whose weights alone are constant."""
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
    """Return the output of a layer, after a Clip or Relu if that is its only reader."""
    (output,) = node.output
    readers = [each for each in model.graph.node if output in each.input]
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
        return readers[0].output[0]
    return output


REPORT_SUFFIX = ".int8.json"
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_MEASURED = 4
"""Number of images on which costs are measured."""
_CHUNK = 8
"""Number of images whose activations are in memory at a time."""
_INPUT = "images"
_BEST_DB = 99.0
_OWN, _WEIGHT = "adapted.network.", ".weight"


@dataclass(frozen=True)
class Network:
    """The layers of a graph, and images on which they are measured.

    Attributes:
        model: Its outputs are those of the last layers.
        layers: In their order.
        images: Each (B, h, w, 3) uint8.
    """

    model: onnx.ModelProto
    layers: list[Layer]
    images: list[np.ndarray]


def quantize(
    model: onnx.ModelProto, out: Path, deployable: Deployable, calibration: Calibration
) -> dict[str, Any]:
    """Write a float32 ONNX graph as an int8 file; write its report beside it and return it.

    The report has ``REPORT_SUFFIX`` in place of the file's suffix.

    Raises:
        DataError: An image cannot be read, or no layer can be in int8 within the limit.
    """
    network = open_network(model, deployable, calibration)
    ranges = measure_ranges(network.model, network.images, calibration.method)
    costs = measure_costs(network, ranges)
    kept, reached = choose_layers(network, ranges, costs, calibration.limit_db)
    result = quantized(model, kept, ranges)
    onnx.checker.check_model(result, full_check=True)
    report = {
        "method": calibration.method,
        "pictures": len(calibration.paths),
        "limit_db": calibration.limit_db,
        "signal_to_noise_db": round(reached, 2),
        "onnxruntime": onnxruntime.__version__,
        "layers": [
            {
                "name": layer.weight.removeprefix(_OWN).removesuffix(_WEIGHT),
                "kind": layer.kind,
                "int8": layer in kept,
                "alone_db": round(costs[layer.name], 2),
            }
            for layer in network.layers
        ],
    }
    with replaced_atomically(out) as temporary:
        onnx.save(result, temporary)
    write_atomically(report_path(out), (json.dumps(report, indent=1) + "\n").encode())
    return report


def with_provenance(deployable: Deployable, calibration: Calibration) -> Deployable:
    """Add the calibration to the metadata of a network."""
    metadata = deployable.metadata
    how = {"method": calibration.method, "pictures": len(calibration.paths)}
    provenance = {**metadata.provenance, "int8": how}
    return replace(deployable, metadata=replace(metadata, provenance=provenance))


def report_notes(report: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of a report for ``Format.write``."""
    layers, ratio = report["layers"], f"{report['signal_to_noise_db']} dB"
    count = sum(layer["int8"] for layer in layers)
    return {"int8 layers": f"{count} of {len(layers)}", "signal to noise": ratio}


def report_path(out: Path) -> Path:
    """Return the path of the report of a file."""
    return out.with_suffix(REPORT_SUFFIX)


def read_report(out: Path) -> dict[str, Any]:
    """Read the report of a file."""
    return json.loads(report_path(out).read_text())


def open_network(
    model: onnx.ModelProto, deployable: Deployable, calibration: Calibration
) -> Network:
    """Extract the layers of a graph, and read the images.

    Raises:
        DataError: There are no layers, or an image cannot be read.
    """
    layers = find_layers(model)
    if not layers:
        raise DataError("--int8: the network has no layers with constant weights")
    # A graph may have a fixed batch size.
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    size_hw = deployable.metadata.size_hw
    pixels = (deployable.fit(ImageFile(path).read(), size_hw) for path in calibration.paths)
    images = [np.repeat(image[None], batch, axis=0) for image in pixels]
    return Network(without_rest(model, outputs_of(model, layers)), layers, images)


def measure_ranges(model: onnx.ModelProto, images: list[np.ndarray], method: str) -> Ranges:
    """Measure the ranges of the inputs and outputs of all layers."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(model, path)
        kinds, watched = [*KINDS, *ACTIVATIONS], str(path.with_name("watched.onnx"))
        options = {"symmetric": False}
        calibrator = create_calibrator(
            path, kinds, watched, _METHODS[method], extra_options=options
        )
        for start in tqdm(range(0, len(images), _CHUNK), "calibration", unit="chunk"):
            calibrator.collect_data(_Reader(images[start : start + _CHUNK]))
        data = calibrator.compute_data()
    return {
        name: (float(np.min(each.range_value[0])), float(np.max(each.range_value[1])))
        for name, each in data.items()
    }


class _Reader(CalibrationDataReader):
    """Images in the form of ONNX Runtime's calibrators."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self._feeds = iter([{_INPUT: each} for each in images])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def measure_costs(network: Network, ranges: Ranges) -> dict[str, float]:
    """Measure the signal-to-noise ratio of the outputs with each layer alone in int8, by name."""
    images = network.images[:_MEASURED]
    expected = run(network.model, images)
    costs = {}
    for layer in tqdm(network.layers, "cost of layers", unit="layer"):
        found = run(quantized(network.model, [layer], ranges), images)
        costs[layer.name] = signal_to_noise(expected, found)
    return costs


def choose_layers(
    network: Network, ranges: Ranges, costs: dict[str, float], limit_db: float
) -> tuple[list[Layer], float]:
    """Leave as many of the costliest layers in float32 as the limit requires.

    Returns:
        The layers for int8, and the signal-to-noise ratio that they keep, in dB.

    Raises:
        DataError: Not even one layer can be in int8.
    """
    images = network.images[:_MEASURED]
    expected = run(network.model, images)
    worst_first = sorted(network.layers, key=lambda layer: costs[layer.name])
    left_out, reached = 0, -_BEST_DB
    while left_out < len(network.layers):
        out = {layer.name for layer in worst_first[:left_out]}
        kept = [layer for layer in network.layers if layer.name not in out]
        reached = signal_to_noise(expected, run(quantized(network.model, kept, ranges), images))
        if reached >= limit_db:
            return kept, reached
        left_out += 1 + left_out // 4  # rarely many, and then in larger steps
    raise DataError(
        f"--int8-limit {limit_db:g}: no layer can be in int8; the best that was reached is "
        f"{reached:.1f} dB. Take a lower limit."
    )


def run(model: onnx.ModelProto, images: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the outputs of a graph for each image."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content, on_cpu = model.SerializeToString(), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=on_cpu)
    return [list(session.run(None, {_INPUT: each})) for each in images]  # type: ignore[arg-type]


def signal_to_noise(expected: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> float:
    """Return the ratio of the power of the outputs to that of their errors in dB, at most 99.

    ``expected`` and ``found`` have the outputs for each image. All outputs have the same weight,
    whatever their size and scale.
    """
    shares = []
    for wanted, seen in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        errors = (each - other for each, other in zip(wanted, seen, strict=True))
        signal, noise = (
            sum(float(np.square(each, dtype=np.float64).sum()) for each in values)
            for values in (wanted, errors)
        )
        shares.append(noise / max(signal, 1e-30))
    return min(_BEST_DB, float(-10 * np.log10(max(np.mean(shares), 1e-30))))


def format_report(report: dict[str, Any]) -> str:
    """Format a report as a table, the costliest layers first."""
    layers = sorted(report["layers"], key=lambda layer: layer["alone_db"])
    width = max(len(layer["name"]) for layer in layers)
    count = sum(layer["int8"] for layer in layers)
    lines = [
        f"int8: {count} of {len(layers)} layers, {report['signal_to_noise_db']} dB of signal to "
        f"noise (limit {report['limit_db']:g}), {report['method']} over {report['pictures']} "
        "pictures",
        f"  {'layer':<{width}}  kind    in     alone it leaves (dB)",
    ]
    lines += [
        f"  {layer['name']:<{width}}  {layer['kind']:<6}  {'int8 ' if layer['int8'] else 'float'}"
        f"  {layer['alone_db']:.1f}"
        for layer in layers
    ]
    return "\n".join(lines)
