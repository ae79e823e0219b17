"""TensorFlow Lite files, real and made up."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.weights.formats import read_tflite
from mobilevision.backbone.weights.loading import WeightsError, load_weights

flatbuffers = pytest.importorskip("flatbuffers")
tflite = pytest.importorskip("tflite")
TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}


class Constant(NamedTuple):
    """A tensor of a made-up file."""

    name: str
    values: np.ndarray
    scale: Sequence[float] = ()
    zero_point: Sequence[int] = ()
    axis: int = 0


class Convolution(NamedTuple):
    """An operator of a made-up file; its tensors by position, -1 for none."""

    kind: int
    inputs: Sequence[int]


CONV, DEPTHWISE = 3, 4  # codes of the format


def write_tflite(
    path: Path,
    tensors: Sequence[Constant],
    operators: Sequence[Convolution],
    inputs: Sequence[int] = (),
) -> Path:
    """Write a file of the format with its own flatbuffer builders."""
    builder = flatbuffers.Builder(1024)
    given = builder.CreateNumpyVector(np.array(inputs, np.int32))
    buffers = _vector(
        builder, tflite.ModelStartBuffersVector, [_buffer(builder, one.values) for one in tensors]
    )
    made = _vector(
        builder,
        tflite.SubGraphStartTensorsVector,
        [_tensor(builder, one, number) for number, one in enumerate(tensors)],
    )
    nodes = _vector(
        builder, tflite.SubGraphStartOperatorsVector, [_operator(builder, one) for one in operators]
    )
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddInputs(builder, given)
    tflite.SubGraphAddTensors(builder, made)
    tflite.SubGraphAddOperators(builder, nodes)
    graphs = _vector(builder, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(builder)])
    codes = []
    for kind in (CONV, DEPTHWISE):
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, kind)
        codes.append(tflite.OperatorCodeEnd(builder))
    code_list = _vector(builder, tflite.ModelStartOperatorCodesVector, codes)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, code_list)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _vector(builder, start, items: list[int]) -> int:
    start(builder, len(items))
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


def _buffer(builder, values: np.ndarray) -> int:
    data = builder.CreateNumpyVector(np.frombuffer(values.tobytes(), np.uint8))
    tflite.BufferStart(builder)
    tflite.BufferAddData(builder, data)
    return tflite.BufferEnd(builder)


def _tensor(builder, tensor: Constant, number: int) -> int:
    scale = builder.CreateNumpyVector(np.array(tensor.scale, np.float32))
    zero = builder.CreateNumpyVector(np.array(tensor.zero_point, np.int64))
    tflite.QuantizationParametersStart(builder)
    tflite.QuantizationParametersAddScale(builder, scale)
    tflite.QuantizationParametersAddZeroPoint(builder, zero)
    tflite.QuantizationParametersAddQuantizedDimension(builder, tensor.axis)
    quantization = tflite.QuantizationParametersEnd(builder)
    name = builder.CreateString(tensor.name)
    shape = builder.CreateNumpyVector(np.array(tensor.values.shape, np.int32))
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, TYPES[tensor.values.dtype.name])
    tflite.TensorAddBuffer(builder, number)
    tflite.TensorAddName(builder, name)
    tflite.TensorAddQuantization(builder, quantization)
    return tflite.TensorEnd(builder)


def _operator(builder, operator: Convolution) -> int:
    inputs = builder.CreateNumpyVector(np.array(operator.inputs, np.int32))
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, [CONV, DEPTHWISE].index(operator.kind))
    tflite.OperatorAddInputs(builder, inputs)
    return tflite.OperatorEnd(builder)


def convolution(kernel: Constant, bias: Constant, kind: int = CONV):
    return [kernel, bias], [Convolution(kind, [0, 0, 1])]


def test_read_tflite__float32__comes_in_slims_layouts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 3, 2, 4)).astype(np.float32)  # OHWI
    depthwise = rng.normal(size=(1, 3, 2, 4)).astype(np.float32)  # 1HWC
    biases = [rng.normal(size=n).astype(np.float32) for n in (5, 4)]
    tensors = [
        Constant("MobilenetV1/Conv2d_0/weights", kernel),
        Constant("MobilenetV1/MobilenetV1/Conv2d_0/Conv2D_bias", biases[0]),
        Constant("MobilenetV1/Conv2d_1_depthwise/depthwise_weights", depthwise),
        Constant("MobilenetV1/MobilenetV1/Conv2d_1_depthwise/depthwise_bias", biases[1]),
    ]
    operators = [Convolution(CONV, [0, 0, 1]), Convolution(DEPTHWISE, [0, 2, 3])]
    arrays = read_tflite(write_tflite(tmp_path / "m.tflite", tensors, operators))
    assert arrays.keys() == {
        "MobilenetV1/Conv2d_0/weights",
        "MobilenetV1/Conv2d_0/bias",
        "MobilenetV1/Conv2d_1_depthwise/depthwise_weights",
        "MobilenetV1/Conv2d_1_depthwise/bias",
    }
    assert arrays["MobilenetV1/Conv2d_0/weights"][2, 1, 3, 4] == kernel[4, 2, 1, 3]
    made = arrays["MobilenetV1/Conv2d_1_depthwise/depthwise_weights"]
    assert made.shape == (3, 2, 4, 1)
    assert made[2, 1, 3, 0] == depthwise[0, 2, 1, 3]
    assert np.array_equal(arrays["MobilenetV1/Conv2d_0/bias"], biases[0])


def test_read_tflite__one_scale__is_scale_times_distance_from_zero_point(tmp_path: Path) -> None:
    stored = np.array([0, 100, 255], np.uint8).reshape(3, 1, 1, 1)
    tensors, operators = convolution(
        Constant("net/conv/weights_quant/FakeQuantWithMinMaxVars", stored, [0.5], [100]),
        Constant("net/conv/Conv2D_Fold_bias", np.array([-8, 0, 9], np.int32), [0.25], [0]),
    )
    arrays = read_tflite(write_tflite(tmp_path / "m.tflite", tensors, operators))
    assert arrays["net/conv/weights"].ravel().tolist() == [-50.0, 0.0, 77.5]
    assert arrays["net/conv/bias"].tolist() == [-2.0, 0.0, 2.25]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("kind", "axis"), [(CONV, 0), (DEPTHWISE, 3)])
def test_read_tflite__scale_for_each_channel(tmp_path: Path, kind: int, axis: int) -> None:
    stored = np.full((2, 1, 1, 1), -4, np.int8) if axis == 0 else np.full((1, 1, 1, 2), -4, np.int8)
    tensors, operators = convolution(
        Constant("net/conv/weights/read", stored, [0.5, 2.0], [0, 0], axis),
        Constant("net/conv/bias", np.array([8, 8], np.int32), [0.25, 1.0], [0, 0]),
        kind,
    )
    arrays = read_tflite(write_tflite(tmp_path / "m.tflite", tensors, operators))
    name = "net/conv/weights" if kind == CONV else "net/conv/depthwise_weights"
    assert arrays[name].ravel().tolist() == [-2.0, -8.0]
    assert arrays["net/conv/bias"].tolist() == [2.0, 8.0]


KERNEL = np.zeros((1, 1, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("kernel", "inputs", "message"),
    [
        (Constant("a/weights", KERNEL.astype(np.float16)), [0, 0, 1], "a/weights is of the schema"),
        (Constant("a/weights", KERNEL.astype(np.uint8)), [0, 0, 1], "integers without a scale"),
        (Constant("a/weights", KERNEL), [0, 0], "a has no bias"),
        (Constant("a/weights", KERNEL), [0, 0, -1], "a has no bias"),
        (Constant("model/conv1/Conv2D", KERNEL), [0, 0, 1], "no convolution has TF-slim's names"),
    ],
)
def test_read_tflite__not_such_a_model__weights_error(
    tmp_path: Path, kernel: Constant, inputs: list[int], message: str
) -> None:
    tensors = [kernel, Constant("a/bias", np.zeros(1, np.float32))]
    path = write_tflite(tmp_path / "m.tflite", tensors, [Convolution(CONV, inputs)])
    with pytest.raises(WeightsError, match=message) as caught:
        read_tflite(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"1234TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 99]
)
def test_read_tflite__not_the_format__weights_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(WeightsError, match=r"m\.tflite: (not|a damaged) .*TensorFlow Lite file"):
        read_tflite(tmp_path / "m.tflite")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors, operators = convolution(
        Constant("net/conv/weights", np.ones((2, 3, 3, 1), np.uint8), [0.5], [1]),
        Constant("net/conv/bias", np.ones(2, np.int32), [0.5], [0]),
    )
    return write_tflite(tmp_path_factory.mktemp("small") / "m.tflite", tensors, operators)


@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), data=st.data())
def test_read_tflite__bytes_changed__arrays_or_weights_error(
    small_file: Path, position: float, data: st.DataObject
) -> None:
    content = bytearray(small_file.read_bytes())
    place = 8 + int(position * (len(content) - 8))
    content[place] = data.draw(st.integers(0, 255))
    damaged = small_file.with_name("damaged.tflite")
    damaged.write_bytes(content[: data.draw(st.integers(place, len(content)))])
    try:
        arrays = read_tflite(damaged)
    except WeightsError:
        return
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_read_tflite__unpacks_to_far_more_than_it_holds__weights_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Constant("a/conv/weights", np.ones((64, 3, 3, 16), np.uint8), [0.5], [1])
    bias = Constant("a/conv/Conv2D_bias", np.ones(64, np.int32), [0.5], [0])
    path = write_tflite(tmp_path / "m.tflite", *convolution(kernel, bias))
    read_tflite(path)
    monkeypatch.setattr("mobilevision.backbone.weights.formats.LARGEST_NETWORK_BYTES", 0)
    with pytest.raises(WeightsError, match=r"m\.tflite: .* unpack to"):
        read_tflite(path)


def test_read_tflite__without_the_package__says_what_to_install(
    small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(WeightsError, match="needs tflite: pip install tflite"):
        read_tflite(small_file)


@pytest.mark.real_data
def test_read_tflite__public_ssd__equals_the_arrays_taken_out_elsewhere(real_data: Path) -> None:
    ours = read_tflite(real_data / "weights" / "detect.tflite")
    theirs = np.load(real_data / "weights" / "ssd_mobilenet_v1_0.75_coco_300.npz")
    assert ours.keys() == set(theirs.files) - {"anchors"}  # not in the file: computed exactly
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name, strict=True)


@pytest.mark.real_data
def test_load_weights__tflite_and_npz__give_the_same_backbone(real_data: Path) -> None:
    backbones = [MobileNetV1(width_mult=0.75).eval() for _ in range(2)]
    for backbone, name in zip(
        backbones, ("detect.tflite", "ssd_mobilenet_v1_0.75_coco_300.npz"), strict=True
    ):
        assert load_weights(backbone, real_data / "weights" / name).folded
    one, other = (backbone.state_dict() for backbone in backbones)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(one["stem.conv.weight"], MobileNetV1(0.75).stem.conv.weight)
