"""Frozen graphs and checkpoints of TensorFlow 1."""

from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.weights.converters import slim_layers
from mobilevision.backbone.weights.formats import file_format
from mobilevision.backbone.weights.hub import resolve_weights
from mobilevision.backbone.weights.loading import load_classifier, load_weights
from mobilevision.backbone.weights.tensorflow import read_bundle, read_graph

from .tensorflow_files import field, table, write_bundle, write_constants

# What tf.compat.v1.train.Saver of TensorFlow 2.21 wrote of three (1, 2, 3, 1) variables, numbered
# from 0.5, 10.5 and 20.5, and of global_step.
INDEX = b64decode(
    "AAAGCAEaAggBACQbTW9iaWxlbmV0VjEvQ29udjJkXzAvQmF0Y2hOb3JtL2dhbW1hCAESEBICCAESAggCEgIIAxICCAEo"
    "GDUF1ZNDFQcdd2VpZ2h0cwgBEhASAggBEgIIAhICCAMSAggBIBgoGDXWl/Q0HAkdL01vbWVudHVtCAESEBICCAESAggC"
    "EgIIAxICCAEgMCgYNXoQU0kACw1nbG9iYWxfc3RlcAgJEgAgSCgINbvXnxEAAAAAAQAAAAD3FR6yAAAAAAEAAAAAwPKh"
    "sAABA2gAvgEAAAAAAQAAAADS0emUwwEI0AEPAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAFf7gIskdUfb"
)
DATA = b64decode(
    "AAAoQQAAOEEAAEhBAABYQQAAaEEAAHhBAAAAPwAAwD8AACBAAABgQAAAkEAAALBAAACkQQAArEEAALRBAAC8QQAAxEEA"
    "AMxBBwAAAAAAAAA="
)
ONE = {"MobilenetV1/Conv2d_0/weights": np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)}


def write_golden(folder: Path) -> Path:
    (folder / "model.ckpt-7.index").write_bytes(INDEX)
    (folder / "model.ckpt-7.data-00000-of-00001").write_bytes(DATA)
    return folder / "model.ckpt-7.index"


def test_read_bundle__of_tensorflow_itself__has_the_weights_and_counts_the_rest(
    tmp_path: Path,
) -> None:
    arrays, notes = read_bundle(write_golden(tmp_path))
    assert arrays.keys() == {
        "MobilenetV1/Conv2d_0/weights", "MobilenetV1/Conv2d_0/BatchNorm/gamma"
    }  # fmt: skip
    expected = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1) + 0.5
    assert np.array_equal(arrays["MobilenetV1/Conv2d_0/weights"], expected)
    assert np.array_equal(arrays["MobilenetV1/Conv2d_0/BatchNorm/gamma"], expected + 10)
    assert notes == ("Variables of the training are left out: 2.",)


def test_resolve__checkpoint__by_any_of_its_names(tmp_path: Path) -> None:
    index = write_golden(tmp_path)
    for name in ("model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"):
        assert resolve_weights(tmp_path / name) == index
    assert resolve_weights(tmp_path / "model.ckpt-7.meta") == index
    assert file_format(index) == "bundle"


def test_read_graph__constants_stored_in_any_way__are_read(tmp_path: Path) -> None:
    graph = GraphDef.FromString(write_constants(tmp_path / "a.pb", ONE).read_bytes())
    scope = "FeatureExtractor/MobilenetV1/Conv2d_1_depthwise/BatchNorm"
    for name, numbers in (("beta", [0.5, 1.0, 2.0]), ("gamma", [3.0])):
        node = graph.node.add(name=f"{scope}/{name}", op="Const")
        node.attr["value"].tensor.dtype = 1
        node.attr["value"].tensor.tensor_shape.dim.add(size=4)
        node.attr["value"].tensor.float_val.extend(numbers)  # the last one is repeated
    graph.node.add(name="BoxPredictor_0/stack/weights_quant/min", op="Const")
    path = tmp_path / "b.pb"
    path.write_bytes(graph.SerializeToString())
    arrays, notes = read_graph(path)
    assert np.array_equal(arrays.pop("MobilenetV1/Conv2d_0/weights"), *ONE.values())
    assert {name: array.tolist() for name, array in arrays.items()} == {
        f"{scope}/beta": [0.5, 1.0, 2.0, 2.0], f"{scope}/gamma": [3.0] * 4
    }  # fmt: skip
    assert notes == (
        "Trained for 8 bits: the ranges of its activations are left out, it runs in float32.",
    )


def slim_variables(backbone: MobileNetV1, classes: int) -> dict[str, np.ndarray]:
    """Made-up variables of TF-slim's classifier, with normalization by itself."""
    rng, found = np.random.default_rng(0), {}
    for scope, layer in slim_layers(backbone).items():
        out, per_group, height, width = layer.conv.weight.shape
        thin = layer.conv.groups > 1
        shape = (height, width, out, 1) if thin else (height, width, per_group, out)
        found[f"{scope}/{'depthwise_' * thin}weights"] = rng.normal(scale=0.2, size=shape)
        for part in ("gamma", "moving_variance"):
            found[f"{scope}/BatchNorm/{part}"] = rng.uniform(0.5, 1.5, out)
        for part in ("beta", "moving_mean"):
            found[f"{scope}/BatchNorm/{part}"] = rng.normal(size=out)
    logits = "MobilenetV1/Logits/Conv2d_1c_1x1"
    channels = backbone.feature_info.channels[-1]
    found[f"{logits}/weights"] = rng.normal(size=(1, 1, channels, classes))
    found[f"{logits}/biases"] = rng.normal(size=classes)
    return {name: array.astype(np.float32) for name, array in found.items()}


def test_classifier__graph_and_checkpoint__are_the_same_and_not_folded(tmp_path: Path) -> None:
    backbone = MobileNetV1(width_mult=0.25)
    variables = slim_variables(backbone, 8)
    one = load_classifier(write_constants(tmp_path / "mobilenet_v1_0.25_96.pb", variables), 0.25)
    other = load_classifier(write_bundle(tmp_path / "model.ckpt", variables), 0.25)
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert one.classifier.out_features == 7  # without background
    assert not load_weights(backbone, tmp_path / "model.ckpt").folded
    found = backbone.blocks[0].depthwise.norm  # type: ignore[union-attr]
    expected = variables["MobilenetV1/Conv2d_1_depthwise/BatchNorm/moving_variance"]
    assert np.array_equal(found.running_var.numpy(), expected)  # type: ignore[union-attr]


def header(fields: bytes) -> bytes:
    return table([(b"", fields)])


ENTRY = field(1, 1) + field(2, field(2, field(1, 6))) + field(5, 24)
NAME = b"MobilenetV1/Conv2d_0/weights"
BIG = field(1, 1) + field(2, field(2, field(1, 2**40)) * 2) + field(5, 24)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (INDEX[:-40] + INDEX[-8:], "a damaged checkpoint of TensorFlow"),
        (INDEX[100:], "a damaged checkpoint of TensorFlow"),
        (INDEX[:9] + b"\7" + INDEX[10:], "an entry reaches past its block"),
        (INDEX.replace(b"\0\0\0\0\1\0\0\0\0\xf7", b"\0\0\0\0\1\0\0\0\1\xf7"), "are compressed"),
        (header(field(1, b"")), "TensorFlow's first format"),
        (header(field(1, 1) + field(2, 1)), "of a big-endian machine"),
        (header(field(1, 1)), "without the variables of a MobileNetV1"),
        (table([(b"", field(1, 2)), (NAME, ENTRY)]), "data-00000-of-00002 is not beside it"),
        (table([(b"", field(1, 1)), (NAME, ENTRY + field(4, 60))]), "ends before MobilenetV1"),
        (table([(b"", field(1, 1)), (NAME, field(1, 19) + ENTRY[2:])]), "is not one array of"),
        (table([(b"", field(1, 1)), (NAME, ENTRY + field(7, b""))]), "is not one array of"),
        (table([(b"", field(1, 1)), (NAME, BIG)]), "a damaged checkpoint"),
    ],
)
def test_read_bundle__what_cannot_be_read__is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write_golden(tmp_path)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_bundle(path)
    assert str(tmp_path) in str(caught.value)


def changed_graph(kind: int, sizes: list[int], count: int) -> bytes:
    graph = GraphDef()
    tensor = graph.node.add(name=NAME.decode(), op="Const").attr["value"].tensor
    tensor.dtype = kind
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend([0.5] * count)
    return graph.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed_graph(1, [2], 2)[:-3], "a damaged frozen graph of TensorFlow"),
        (changed_graph(19, [2], 2), "has type 19"),
        (changed_graph(1, [2], 3), "a damaged frozen graph"),
        (changed_graph(1, [2**20, 2**20], 1), "far more than any MobileNet"),
        (changed_graph(1, [-(2**20), -(2**20)], 1), "far more than any MobileNet"),
        (GraphDef().SerializeToString(), "a graph without the weights"),
    ],
)
def test_read_graph__what_cannot_be_read__is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.pb").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_graph(tmp_path / "a.pb")
    assert str(tmp_path) in str(caught.value)


def test_file_format__saved_model__asks_for_the_graph_beside_it(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\xa2\x80\x01")
    with pytest.raises(WeightsError, match="a SavedModel; give the frozen graph"):
        file_format(tmp_path / "saved_model.pb")
