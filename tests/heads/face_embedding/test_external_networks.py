"""Networks of other projects: graphs that begin as the real ones do, their cards, and parity."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.heads.face_embedding.cards import FACENET, Card, card_path
from mobilevision.heads.face_embedding.external_networks import (
    ExternalNetwork,
    FacenetNetwork,
    NcnnNetwork,
    OnnxNetwork,
)

Capture = pytest.CaptureFixture[str]


class MeanColor(ExternalNetwork):
    """Says three numbers: the mean of each channel."""

    opened = 0

    def _open(self) -> None:
        self.opened += 1

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.shape[1:] == (self.size, self.size, 3)
        return pixels.mean(axis=(1, 2))


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embed__takes_both_layouts_and_any_size_and_opens_once() -> None:
    torch = pytest.importorskip("torch")
    network = MeanColor((), Card(16, 0, 1))
    faces = noise(2, 16)
    rows = network.embed(faces)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(rows, network.embed(torch.from_numpy(faces).permute(0, 3, 1, 2)))
    larger = faces.repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(network.embed(larger), rows, atol=2e-3)
    assert network.opened == 1
    with pytest.raises(ValueError, match="uint8 images"):
        network.embed(faces.astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        (NcnnNetwork, "ncnn", "ncnn"),
        (OnnxNetwork, "onnxruntime", "onnxruntime"),
        (FacenetNetwork, "facenet_pytorch", "facenet-pytorch==2.5.3"),
    ],
)
def test_library__absent(
    kind: Any, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.param", "a.bin"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WeightsError, match=f"needs {module}: pip install {package}$"):
        kind(tmp_path / "a.param").embed(noise(1, 112))


def test_torch__is_not_imported() -> None:
    program = (
        "import sys, mobilevision.heads.face_embedding.external_networks as a, "
        "mobilevision.apps.public, mobilevision.apps.inference.face_embedding;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def onnx_model(
    path: Path, shape: list[Any], first: tuple[tuple[str, float], ...] = (), names: bool = False
) -> Path:
    """The mean of each channel, times 1, 2, 3; before that what ``first`` says, as of MXNet.

    With ``names`` the nodes are called as if they were that arithmetic, but do something else.
    """
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    value, nodes, constants = "data", [], []
    for number, (kind, constant) in enumerate(first):
        constants.append(helper.make_tensor(f"scalar{number}", floats, [1], [constant]))
        nodes.append(helper.make_node(kind, [value, f"scalar{number}"], [f"value{number}"]))
        value = f"value{number}"
    if names:
        nodes.append(helper.make_node("Relu", [value], ["kept"], name="_minusscalar0"))
        nodes.append(helper.make_node("Relu", ["kept"], ["mul"], name="_mulscalar0"))
        value = "mul"
    nodes += [
        helper.make_node("ReduceMean", [value, "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "factors"], ["fc1"]),
    ]
    constants += [
        helper.make_tensor("axes", onnx.TensorProto.INT64, [2], axes),
        helper.make_tensor("factors", floats, [1, 3], [1.0, 2.0, 3.0]),
    ]
    graph = helper.make_graph(
        nodes, "mean", [helper.make_tensor_value_info("data", floats, shape)],
        [helper.make_tensor_value_info("fc1", floats, [shape[0], "d"])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("shape", [["n", 3, 20, 20], [1, 3, 20, 20], ["n", 20, 20, 3]])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_onnx__layouts_batches_and_channels(tmp_path: Path, shape: list[Any], order: Any) -> None:
    network = OnnxNetwork(onnx_model(tmp_path / "m.onnx", shape), Card(order=order))
    faces = noise(3, 20)
    means = (faces.mean(axis=(1, 2)) - 127.5) / 127.5
    expected = unit((means[:, ::-1] if order == "bgr" else means) * [1, 2, 3])
    np.testing.assert_allclose(network.embed(faces), expected, atol=1e-4)
    assert network.size == 20


@pytest.mark.parametrize("divided", [("Mul", 1 / 128), ("Div", 128.0)])
def test_onnx__begins_with_its_own_normalization__gets_the_range_of_pixels(
    tmp_path: Path, divided: tuple[str, float], capsys: Capture
) -> None:
    path = onnx_model(tmp_path / "sface.onnx", [1, 3, 112, 112], (("Sub", 127.5), divided))
    network = OnnxNetwork(path)
    faces = noise(2, 112)
    expected = unit((faces.mean(axis=(1, 2)) - 127.5) / 128 * [1, 2, 3])
    np.testing.assert_allclose(network.embed(faces), expected, atol=1e-4)
    assert (network.card.pixel_mean, network.card.pixel_std) == (0, 1)
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert "but for the range" in said
    assert "RGB, (pixel - 0) / 1" in said


@pytest.mark.parametrize(
    ("first", "names"),
    [((), False), ((("Mul", 0.5),), False), ((), True)],
    ids=["nothing", "a factor alone", "names alone"],
)
def test_onnx__unknown__arcfaces_convention_and_one_warning(
    tmp_path: Path, first: Any, names: bool, capsys: Capture
) -> None:
    path = onnx_model(tmp_path / "w600k_mbf.onnx", ["n", 3, "h", "w"], first, names)
    network = OnnxNetwork(path)
    network.embed(noise(1, 112))
    network.embed(noise(1, 112))
    assert network.card == Card(size=112)
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert "into w600k_mbf.onnx.json beside it" in said
    assert "RGB, (pixel - 127.5) / 127.5" in said


def test_onnx__a_card_beside_the_file__is_obeyed_in_silence(
    tmp_path: Path, capsys: Capture
) -> None:
    path = onnx_model(tmp_path / "net.onnx", [1, 3, 24, 24])
    card_path(path).write_text(json.dumps({"pixel_mean": 0, "pixel_std": 255, "order": "bgr"}))
    faces = noise(2, 24)
    expected = unit(faces.mean(axis=(1, 2))[:, ::-1] / 255 * [1, 2, 3])
    np.testing.assert_allclose(OnnxNetwork(path).embed(faces), expected, atol=1e-4)
    assert capsys.readouterr().err == ""
    card_path(path).write_text(json.dumps({"size": 112}))
    with pytest.raises(WeightsError, match="takes images of 24 px, but its card says 112"):
        OnnxNetwork(path).open()
    card_path(path).write_text(json.dumps({"order": "gbr"}))
    with pytest.raises(DataError, match="order is 'gbr'"):
        OnnxNetwork(path).open()


def test_onnx__no_such_file_or_no_model_of_faces(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        OnnxNetwork(tmp_path / "absent.onnx").open()
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(WeightsError, match="cannot be run"):
        OnnxNetwork(tmp_path / "text.onnx").open()
    with pytest.raises(WeightsError, match="not images of three channels"):
        OnnxNetwork(onnx_model(tmp_path / "flat.onnx", ["n", "c", "h", "w"])).open()


def test_facenet__its_own_weights_from_a_file(tmp_path: Path) -> None:
    library, torch = pytest.importorskip("facenet_pytorch"), pytest.importorskip("torch")
    torch.manual_seed(0)
    network = library.InceptionResnetV1(pretrained=None).eval()
    state = network.state_dict() | {"logits.weight": torch.zeros(5, 512)}
    torch.save(state, tmp_path / "weights.pt")
    faces = noise(1, 160)
    with torch.no_grad():
        pixels = torch.from_numpy(faces).permute(0, 3, 1, 2).float()
        expected = network((pixels - 127.5) / 128)
    ours = FacenetNetwork(tmp_path / "weights.pt")
    np.testing.assert_allclose(ours.embed(faces), expected.numpy(), atol=1e-5)
    assert ours.card == FACENET
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no weights of InceptionResnetV1"):
        FacenetNetwork(tmp_path / "other.pt").embed(faces)


PARAM = """7767517
{count} {count}
Input data 0 1 data
{layers}Pooling mean 1 1 {last} mean 0=1 4=1
"""


def ncnn_model(folder: Path, layers: str, last: str) -> Path:
    """The mean of each channel, after layers without weights."""
    count = 2 + layers.count("\n")
    (folder / "m.param").write_text(PARAM.format(count=count, layers=layers, last=last))
    (folder / "m.bin").touch()
    return folder / "m.param"


def test_ncnn__unknown__the_range_is_told_by_its_first_layers(
    tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("ncnn")
    faces = noise(2, 112)
    means = faces.mean(axis=(1, 2))
    plain = NcnnNetwork(ncnn_model(tmp_path, "", "data"))
    np.testing.assert_allclose(plain.embed(faces), unit(means - 127.5), atol=1e-4)
    assert "(pixel - 127.5) / 127.5" in capsys.readouterr().err
    own = "BinaryOp a 1 1 data a 0=1 1=1 2=100.0\nBinaryOp b 1 1 a b 0=2 1=1 2=0.01\n"
    network = NcnnNetwork(ncnn_model(tmp_path, own, "b"))
    np.testing.assert_allclose(network.embed(faces), unit(means - 100), atol=1e-4)
    assert "(pixel - 0) / 1" in capsys.readouterr().err


def test_ncnn__no_such_file(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    with pytest.raises(WeightsError, match=r"a\.param: no such file"):
        NcnnNetwork(tmp_path / "a.param").open()
    (tmp_path / "a.param").touch()
    with pytest.raises(WeightsError, match=r"a\.bin: no such file"):
        NcnnNetwork(tmp_path / "a.param").open()
    (tmp_path / "a.bin").touch()
    with pytest.raises(WeightsError, match="ncnn cannot read it"):
        NcnnNetwork(tmp_path / "a.param").open()


@pytest.mark.real_data
def test_ncnn__mobilefacenet__the_order_of_colors_matters(real_data: Path) -> None:
    """By far less than one might think: see docs/faces.md."""
    pytest.importorskip("ncnn")
    from PIL import Image

    network = NcnnNetwork(real_data / "teacher" / "mobilenet_ncnn.param")
    files = sorted((real_data / "lfw" / "George_W_Bush").glob("*.jpg"))[:12]
    faces = np.stack([np.array(Image.open(file)) for file in files])
    right, wrong = network.embed(faces), network.embed(np.ascontiguousarray(faces[..., ::-1]))
    assert network.card.verification["threshold"] == 0.315
    alike = (right * wrong).sum(axis=1)
    assert 0.5 < alike.mean() < 0.97
