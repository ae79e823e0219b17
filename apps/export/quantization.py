"""An ONNX file in int8: ranges from images, the costliest layers left in float32, a report."""

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
from ...datasets.images import ImageFile, stretch
from .export_module import Deployable
from .formats import Calibration

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


REPORT_SUFFIX = ".int8.json"
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_MEASURED = 4
"""Images that costs are measured on."""
_CHUNK = 8
"""Images whose activations a histogram holds in memory at a time."""
_INPUT = "images"
_BEST_DB = 99.0
_OWN, _WEIGHT = "answers.network.", ".weight"


@dataclass(frozen=True)
class Network:
    """The part of a graph that is made of layers, and images to measure it on.

    Attributes:
        model: Its outputs are what the last layers answer.
        layers: In their order.
        images: Each (B, h, w, 3) uint8.
    """

    model: onnx.ModelProto
    layers: list[Layer]
    images: list[np.ndarray]


def quantize(
    source: Path, out: Path, size_hw: tuple[int, int], calibration: Calibration
) -> dict[str, Any]:
    """Write a float32 ONNX file again in int8, and its report beside it.

    Args:
        source: Of ``mobilevision export``.
        out: The file to write or replace; the report has ``REPORT_SUFFIX`` in place of the suffix.
        size_hw: Height and width that the network works at.
        calibration: What the user decides.

    Returns:
        The report, plain data.

    Raises:
        DataError: An image cannot be read, or no layer can be in int8 within the limit.
        OSError: A file cannot be written.
    """
    model = onnx.load(source)
    network = open_network(model, size_hw, calibration)
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
    """Return a network whose metadata says how its file in int8 was calibrated."""
    metadata = deployable.metadata
    how = {"method": calibration.method, "pictures": len(calibration.paths)}
    return replace(
        deployable, metadata=replace(metadata, provenance={**metadata.provenance, "int8": how})
    )


def report_notes(report: dict[str, Any]) -> dict[str, Any]:
    """What ``Format.write`` returns of a report."""
    layers = report["layers"]
    return {
        "int8 layers": f"{sum(layer['int8'] for layer in layers)} of {len(layers)}",
        "signal to noise": f"{report['signal_to_noise_db']} dB",
    }


def report_path(out: Path) -> Path:
    """Where the report of a file is."""
    return out.with_suffix(REPORT_SUFFIX)


def read_report(out: Path) -> dict[str, Any]:
    """Return the report of a file."""
    return json.loads(report_path(out).read_text())


def open_network(
    model: onnx.ModelProto, size_hw: tuple[int, int], calibration: Calibration
) -> Network:
    """Take what is made of layers out of a graph, and read the images.

    Raises:
        DataError: There are no layers, or an image cannot be read.
    """
    layers = find_layers(model)
    if not layers:
        raise DataError("--int8: the network has no layers with fixed weights")
    # A file may be for a fixed number of images.
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    images = [
        np.repeat(stretch(ImageFile(path).read(), size_hw)[None], batch, axis=0)
        for path in calibration.paths
    ]
    return Network(without_rest(model, answers_of(model, layers)), layers, images)


def measure_ranges(model: onnx.ModelProto, images: list[np.ndarray], method: str) -> Ranges:
    """Least and largest value of what goes into and comes out of layers."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            [*KINDS, *ACTIVATIONS],
            str(path.with_name("watched.onnx")),
            _METHODS[method],
            extra_options={"symmetric": False},
        )
        for start in tqdm(range(0, len(images), _CHUNK), "calibration", unit="chunk"):
            feeds = iter([{_INPUT: each} for each in images[start : start + _CHUNK]])
            calibrator.collect_data(_Reader(feeds))
        data = calibrator.compute_data()
    return {
        name: (float(np.min(each.range_value[0])), float(np.max(each.range_value[1])))
        for name, each in data.items()
    }


class _Reader(CalibrationDataReader):
    """Images as ONNX Runtime's calibrators ask for them."""

    def __init__(self, feeds: Any) -> None:
        self._feeds = feeds

    def get_next(self) -> Any:
        """Return the next one, or None."""
        return next(self._feeds, None)


def measure_costs(network: Network, ranges: Ranges) -> dict[str, float]:
    """Name of each layer -> signal to noise of the network's answers when it alone is in int8."""
    images = network.images[:_MEASURED]
    expected = answers(network.model, images)
    return {
        layer.name: signal_to_noise(
            expected, answers(quantized(network.model, [layer], ranges), images)
        )
        for layer in tqdm(network.layers, "cost of layers", unit="layer")
    }


def choose_layers(
    network: Network, ranges: Ranges, costs: dict[str, float], limit_db: float
) -> tuple[list[Layer], float]:
    """Leave the costliest layers out, as many as it takes.

    Returns:
        The layers that go into int8, and the signal to noise that is kept, in dB.

    Raises:
        DataError: Not one can.
    """
    images = network.images[:_MEASURED]
    expected = answers(network.model, images)
    worst_first = sorted(network.layers, key=lambda layer: costs[layer.name])
    left_out, reached = 0, -_BEST_DB
    while left_out < len(network.layers):
        out = {layer.name for layer in worst_first[:left_out]}
        kept = [layer for layer in network.layers if layer.name not in out]
        reached = signal_to_noise(expected, answers(quantized(network.model, kept, ranges), images))
        if reached >= limit_db:
            return kept, reached
        left_out += 1 + left_out // 4  # rarely many, and then not one by one
    raise DataError(
        f"--int8-limit {limit_db:g}: no layer can be in int8; the best that was reached is "
        f"{reached:.1f} dB. Take a lower limit."
    )


def answers(model: onnx.ModelProto, images: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Outputs for each of some images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [list(session.run(None, {_INPUT: each})) for each in images]  # type: ignore[arg-type]


def signal_to_noise(expected: list[list[np.ndarray]], found: list[list[np.ndarray]]) -> float:
    """Signal to noise in dB: the power of the answers over that of their differences.

    Each output counts the same, whatever its size and scale.

    Args:
        expected: Image -> outputs.
        found: The same, with noise.

    Returns:
        Decibels, at most 99.
    """
    shares = []
    for wanted, seen in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        signal = sum(float(np.square(each, dtype=np.float64).sum()) for each in wanted)
        noise = sum(
            float(np.square(each - other, dtype=np.float64).sum())
            for each, other in zip(wanted, seen, strict=True)
        )
        shares.append(noise / max(signal, 1e-30))
    return min(_BEST_DB, float(-10 * np.log10(max(np.mean(shares), 1e-30))))


def format_report(report: dict[str, Any]) -> str:
    """A report as a table, the costliest layers first."""
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
