"""An ONNX file in int8: ranges from pictures, the costliest layers left in float32, a report."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    create_calibrator,
)
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically, write_atomically
from ...datasets.images import ImageFile, stretch
from .deployed import Deployable
from .formats import Calibration
from .quantization_graph import (
    ACTIVATIONS,
    KINDS,
    Layer,
    Ranges,
    answers_of,
    find_layers,
    quantized,
    without_rest,
)

REPORT_SUFFIX = ".int8.json"
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_MEASURED = 4
"""Pictures that costs are measured on."""
_CHUNK = 8
"""Pictures whose activations a histogram holds in memory at a time."""
_INPUT = "images"
_BEST_DB = 99.0
_OWN, _WEIGHT = "answers.network.", ".weight"


@dataclass(frozen=True)
class Network:
    """The part of a graph that is made of layers, and pictures to measure it on.

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
        DataError: A picture cannot be read, or no layer can be in int8 within the limit.
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
        "pictures": len(calibration.pictures),
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
    """Return a network whose facts say how its file in int8 was calibrated."""
    facts = deployable.facts
    how = {"method": calibration.method, "pictures": len(calibration.pictures)}
    return replace(deployable, facts=replace(facts, provenance={**facts.provenance, "int8": how}))


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
    """Take what is made of layers out of a graph, and read the pictures.

    Raises:
        DataError: There are no layers, or a picture cannot be read.
    """
    layers = find_layers(model)
    if not layers:
        raise DataError("--int8: the network has no layers with fixed weights")
    # A file may be for a fixed number of pictures.
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    images = [
        np.repeat(stretch(ImageFile(path).read(), size_hw)[None], batch, axis=0)
        for path in calibration.pictures
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
    """Pictures as ONNX Runtime's calibrators ask for them."""

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
        f"--int8-limit {limit_db:g}: no layer can be in 8 bits; the best that was reached is "
        f"{reached:.1f} dB. Take a lower limit."
    )


def answers(model: onnx.ModelProto, images: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Outputs for each of some pictures."""
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
        expected: Picture -> outputs.
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
