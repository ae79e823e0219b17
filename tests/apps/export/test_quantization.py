"""Networks in int8: numbers by hand, what stays in float, files and their reports."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from mobilevision.apps.export.export_module import Deployable
from mobilevision.apps.export.exporting import Exported, export_checkpoint, made_up_image
from mobilevision.apps.export.formats import Calibration, ExportOptions, find_images
from mobilevision.apps.importing import import_weights
from mobilevision.apps.inference.runtime import open_runtime
from mobilevision.apps.main import main
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from mobilevision.apps.export.quantization import (  # noqa: E402 (after what may be absent)
    Network,
    choose_layers,
    find_layers,
    format_report,
    measure_costs,
    measure_ranges,
    outputs_of,
    quantize,
    quantized,
    read_report,
    run,
    signal_to_noise,
    without_rest,
)

FIRST = np.array([[1.27, 0.5, 0.0], [-0.02, 0.254, 0.1]], np.float32)
SECOND = np.array([[0.635, -1.27]], np.float32)
RANGES = {"pixels": (0.0, 255.0), "first": (0.0, 6.0)}


def two_layers(bias: tuple[float, float] = (0.5, -1.0), clip: float = 6.0):
    """Two convolutions of one pixel with a Clip between, then TopK and a third."""
    make, fixed = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        make("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2]),
        make("Cast", ["turned"], ["pixels"], to=onnx.TensorProto.FLOAT),
        make("Conv", ["pixels", "w1", "b1"], ["raw"], "one"),
        make("Clip", ["raw", "least", "most"], ["first"], "clip"),
        make("Conv", ["first", "w2"], ["second"], "two"),
        make("TopK", ["second", "k"], ["best", "places"], "best", axis=1),
        make("Conv", ["best", "w3"], ["third"], "three"),
    ]
    values = {
        "w1": FIRST[..., None, None],
        "b1": np.array(bias, np.float32),
        "least": np.array(0, np.float32),
        "most": np.array(clip, np.float32),
        "w2": SECOND[..., None, None],
        "k": np.array([1]),
        "w3": np.ones((1, 1, 1, 1), np.float32),
    }
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 1, 1, 3])
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 1, 1])
        for name in ("second", "third")
    ]
    graph = onnx.helper.make_graph(
        nodes, "two", [images], outputs, [fixed(value, name) for name, value in values.items()]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model)
    return model


def pixels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, 1, 3)


def test_find_layers__order_and_ends() -> None:
    layers = find_layers(two_layers())
    assert [(each.name, each.source, each.output) for each in layers] == [
        ("one", "pixels", "first"),
        ("two", "first", "second"),
    ], "what comes after a choice stays in float"
    assert [each.is_last for each in layers] == [False, True]


def test_outputs_of__what_is_split_counts_apart(exported: Callable[[str], Exported]) -> None:
    model = two_layers()
    assert outputs_of(model, find_layers(model)) == ["second"]
    model = onnx.load(exported("ssd").path)
    part = without_rest(model, outputs_of(model, find_layers(model)))
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"images": made_up_image((64, 80))[None]})
    # Two classes and background; the boxes' offsets.
    assert sorted(x.shape[-1] for x in found) == [3, 4]
    assert {x.ndim for x in found} == {3}


def test_quantized__numbers_by_hand() -> None:
    model = two_layers()
    eight = quantized(model, find_layers(model), RANGES)
    onnx.checker.check_model(eight, full_check=True)
    kinds = [node.op_type for node in eight.graph.node]
    assert kinds.count("QuantizeLinear") == 2, "what comes out of the last layer stays in float"
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in eight.graph.initializer}
    np.testing.assert_array_equal(stored["w1_quantized"][..., 0, 0], [[127, 50, 0], [-10, 127, 50]])
    assert stored["w1_quantized"].dtype == np.int8
    np.testing.assert_array_equal(stored["b1_quantized"], [50, -500])
    np.testing.assert_array_equal(stored["w2_quantized"][..., 0, 0], [[64, -127]])
    assert not {"w1", "b1", "w2"} & set(stored)
    # 2 * 1.27 + 1 * 0.5 + 0.5 = 3.54 is 150.45 steps of 6 / 255; -0.04 + 0.254 + 3 - 1 is 94.095
    ((second, third),) = run(eight, [pixels(2, 1, 30)])
    step = 6 / 255
    assert second.item() == pytest.approx(150 * step * 0.64 - 94 * step * 1.27, abs=1e-5)
    assert third.item() == pytest.approx(second.item())
    ((clipped, _),) = run(eight, [pixels(9, 0, 0)])
    assert clipped.item() == pytest.approx(6 * 0.64, abs=1e-5)


def test_quantized__some_layers__others_as_they_were() -> None:
    model = two_layers()
    one, two = find_layers(model)
    assert quantized(model, [], RANGES) == model
    kinds = [node.op_type for node in quantized(model, [two], RANGES).graph.node]
    assert kinds.count("QuantizeLinear") == 1
    wide = quantized(two_layers(clip=3.0), [one], RANGES)  # it clips more than rounding does
    ((second, _),) = run(wide, [pixels(9, 0, 0)])
    assert second.item() == pytest.approx(round(3 / 6 * 255) * 6 / 255 * 0.635, abs=1e-4)


def test_quantized__channel_without_weight__keeps_its_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = FIRST * np.array([[1e-12], [1]], np.float32)
    monkeypatch.setitem(globals(), "FIRST", weak)
    model = two_layers(bias=(3.0, 0.0))
    ((second, _),) = run(quantized(model, find_layers(model), RANGES), [pixels(5, 0, 0)])
    assert second.item() == pytest.approx(3.0 * 0.64, abs=0.02)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_measure_ranges__extremes_of_images(method: str) -> None:
    images = [pixels(1, 0, 0), pixels(4, 2, 30), pixels(0, 0, 1)] * 4
    ranges = measure_ranges(two_layers(), images, method)
    assert {"pixels", "first"} <= set(ranges)
    least, most = ranges["pixels"]
    assert least <= 0
    assert most == pytest.approx(30, abs=0.1) if method == "minmax" else 0 < most <= 31
    assert ranges["first"][1] <= 6


def test_signal_to_noise__by_hand() -> None:
    expected = [[np.array([3.0, 4.0]), np.array([10.0])]]
    noisy = [[np.array([3.0, 4.5]), np.array([11.0])]]
    assert signal_to_noise(expected, noisy) == pytest.approx(20)  # 0.25 / 25 and 1 / 100
    assert signal_to_noise(expected, expected) == 99
    assert signal_to_noise([[np.zeros(2)]], [[np.ones(2)]]) < -100


def test_choose_layers__costliest_stays_in_float() -> None:
    model = two_layers()
    layers = find_layers(model)
    images = [pixels(1, 0, 3), pixels(4, 2, 30), pixels(2, 1, 20)]
    network = Network(model, layers, images)
    ranges = {**RANGES, "pixels": (0.0, 3000.0)}  # steps far too wide for the first layer
    costs = measure_costs(network, ranges)
    assert costs["one"] < 15
    assert costs["two"] > 20
    kept, reached = choose_layers(network, ranges, costs, 20.0)
    assert [layer.name for layer in kept] == ["two"]
    assert reached == pytest.approx(costs["two"])
    kept, _ = choose_layers(network, ranges, costs, -20.0)
    assert kept == layers
    with pytest.raises(DataError, match=r"--int8-limit 98: no layer can be in int8.*lower limit"):
        choose_layers(network, ranges, costs, 98.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for place in range(6):
        image = np.roll(made_up_image((70 + 5 * place, 90)), 11 * place, axis=1)
        Image.fromarray(image).save(folder / f"{place}.png")
    return folder


def test_find_images__evenly_spread(photos: Path) -> None:
    assert [path.name for path in find_images([str(photos)], 3)] == ["0.png", "2.png", "5.png"]
    assert len(find_images([str(photos)], 100)) == 6
    with pytest.raises(DataError, match="--calibrate-count 0"):
        find_images([str(photos)], 0)
    with pytest.raises(DataError, match="--calibrate-method x: there are minmax"):
        Calibration((photos,), "x")


@pytest.mark.parametrize("kind", ["classification", "face_embedding"])
def test_quantize__small_network__near_and_smaller(
    kind: str,
    exported: Callable[[str], Exported],
    deployable: Callable[[str], Deployable],
    photos: Path,
    tmp_path: Path,
) -> None:
    source, out = exported(kind).path, tmp_path / "small.onnx"
    metadata = open_runtime(source).metadata
    paths = find_images([str(photos)], 6)
    calibration = Calibration(paths, limit_db=15.0)
    report = quantize(onnx.load(source), out, deployable(kind), calibration)
    assert out.stat().st_size < 0.6 * source.stat().st_size
    assert report["signal_to_noise_db"] >= 15
    assert any(layer["int8"] for layer in report["layers"])
    assert read_report(out) == report
    small, images = open_runtime(out, "cpu"), ImageFile(paths[1]).read()[None]
    assert small.metadata == metadata
    found, expected = small(images), open_runtime(source, "cpu")(images)
    name = next(iter(metadata.outputs))
    apart = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
    assert 0 < apart < 0.3


def test_command__int8__file_report_and_table(
    small: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.onnx"
    words = ["export", "--ckpt", str(small("classification")), "--out", str(out), "--int8"]
    words += ["--calibrate", str(photos), "--calibrate-count", "4", "--int8-limit", "10"]
    assert main(words) == 0
    told = capsys.readouterr().out
    report = json.loads((tmp_path / "x.int8.json").read_text())
    assert report["pictures"] == 4
    assert format_report(report) in told
    names = [layer["name"] for layer in report["layers"]]
    assert "backbone.stem" in names
    assert open_runtime(out).metadata.provenance["int8"] == {"method": "minmax", "pictures": 4}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.int8.json", "x.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8"], "--int8 needs images"),
        (["--calibrate", "."], "--calibrate: only used with --int8"),
        (["--int8", "--calibrate", "absent"], "absent: no such file"),
    ],
)
def test_command__wrong_options__exit_status_2(
    small: Callable[[str], Path], words: list[str], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "x.onnx"
    with pytest.raises(SystemExit) as exit_:
        main(["export", "--ckpt", str(small("classification")), "--out", str(out), *words])
    assert exit_.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.real_data
def test_quantize__public_detector__same_objects(real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights/ssd_mobilenet_v1_0.75_coco_300.npz"
    import_weights(str(weights), tmp_path / "ssd.ckpt")
    paths = find_images([str(real_data / "coco/train2017")], 6)
    export_checkpoint(tmp_path / "ssd.ckpt", tmp_path / "ssd.onnx", "onnx")
    options = ExportOptions(int8=Calibration(paths))
    written = export_checkpoint(tmp_path / "ssd.ckpt", tmp_path / "8.onnx", "onnx", None, options)
    assert written.size_bytes < 0.35 * (tmp_path / "ssd.onnx").stat().st_size
    exact, eight = (open_runtime(tmp_path / name, "cpu") for name in ("ssd.onnx", "8.onnx"))
    overlaps = []
    for path in sorted((real_data / "coco/val2017").glob("*.jpg"))[:40]:
        images = ImageFile(path).read()[None]
        expected, found = exact(images), eight(images)
        sure = expected["scores"][0] > 0.5
        for box, label in zip(expected["boxes"][0][sure], expected["labels"][0][sure], strict=True):
            same = (found["labels"][0] == label) & (found["scores"][0] > 0.35)
            assert same.any()
            boxes = torch.from_numpy(found["boxes"][0][same])
            overlaps.append(box_iou(torch.from_numpy(box[None]), boxes).max().item())
    assert len(overlaps) > 200
    assert min(overlaps) > 0.7
    assert np.median(overlaps) > 0.97
    assert np.quantile(overlaps, 0.1) > 0.93
