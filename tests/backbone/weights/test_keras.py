"""Keras applications' files, written here in the layout of Keras 2's ``save_weights``."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.weights.converters import read_keras
from mobilevision.backbone.weights.loading import load_weights

h5py = pytest.importorskip("h5py")
Layers = dict[str, dict[str, np.ndarray]]
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
OWN_MARKS = {"conv1_pad", "conv1_relu", "dropout"}  # layers without weights


def random_layers(alpha: float, num_classes: int | None = 11) -> Layers:
    """Random weights by layer, in Keras' shapes."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, fan_in: int) -> np.ndarray:
        return rng.normal(scale=(2 / fan_in) ** 0.5, size=shape).astype(np.float32)

    def norm(channels: int) -> dict[str, np.ndarray]:
        return {
            "gamma": rng.uniform(0.5, 1.5, channels).astype(np.float32),
            "beta": rng.normal(scale=0.3, size=channels).astype(np.float32),
            "moving_mean": rng.normal(scale=0.3, size=channels).astype(np.float32),
            "moving_variance": rng.uniform(0.5, 1.5, channels).astype(np.float32),
        }

    channels = int(32 * alpha)
    layers: Layers = {"conv1": {"kernel": normal(3, 3, 3, channels, fan_in=27)}}
    layers["conv1_bn"] = norm(channels)
    for number, width in enumerate(WIDTHS, start=1):
        out = int(width * alpha)
        layers[f"conv_dw_{number}"] = {"depthwise_kernel": normal(3, 3, channels, 1, fan_in=9)}
        layers[f"conv_dw_{number}_bn"] = norm(channels)
        layers[f"conv_pw_{number}"] = {"kernel": normal(1, 1, channels, out, fan_in=channels)}
        layers[f"conv_pw_{number}_bn"] = norm(out)
        channels = out
    if num_classes is not None:
        layers["conv_preds"] = {
            "kernel": normal(1, 1, channels, num_classes, fan_in=channels),
            "bias": rng.normal(size=num_classes).astype(np.float32),
        }
    return layers


def write_h5(path: Path, layers: Layers, group: str = "/") -> Path:
    """Groups by layer with the attributes that Keras reads, arrays under their variables' names."""
    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        root.attrs["layer_names"] = [name.encode() for name in (*sorted(OWN_MARKS), *layers)]
        root.attrs["backend"] = b"tensorflow"
        for name in OWN_MARKS:
            root.create_group(name).attrs["weight_names"] = []
        for name, weights in layers.items():
            layer = root.create_group(name)
            layer.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in weights]
            for part, values in weights.items():
                layer.create_dataset(f"{name}/{part}:0", data=values)
    return path


def keras_forward(layers: Layers, images: Tensor) -> dict[str, Tensor]:
    """Keras' MobileNet written down plainly: its padding, normalization and layer order."""

    def convolve(x: Tensor, kernel: np.ndarray, stride: int, groups: int, padding: int) -> Tensor:
        if stride == 2:  # ZeroPadding2D(((0, 1), (0, 1))), then "valid"
            x, padding = F.pad(x, (0, 1, 0, 1)), 0
        order = (2, 3, 0, 1) if groups > 1 else (3, 2, 0, 1)
        weight = torch.from_numpy(kernel.transpose(order).copy())
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)

    def normalize(x: Tensor, name: str) -> Tensor:
        gamma, beta, mean, variance = (
            torch.from_numpy(layers[f"{name}_bn"][part])[:, None, None]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (gamma * (x - mean) / (variance + 1e-3).sqrt() + beta).clamp(0, 6)

    x = normalize(convolve(images, layers["conv1"]["kernel"], 2, 1, 1), "conv1")
    maps = {"conv1": x}
    for number, stride in enumerate(STRIDES, start=1):
        name = f"conv_dw_{number}"
        kernel = layers[name]["depthwise_kernel"]
        x = normalize(convolve(x, kernel, stride, kernel.shape[2], 1), name)
        name = f"conv_pw_{number}"
        x = normalize(convolve(x, layers[name]["kernel"], 1, 1, 0), name)
        maps[name] = x
    preds = layers["conv_preds"]
    pooled = x.mean(dim=(2, 3))
    maps["conv_preds"] = pooled @ torch.from_numpy(preds["kernel"][0, 0]) + torch.from_numpy(
        preds["bias"]
    )
    return maps


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_read_keras__random_weights__same_maps_and_logits(tmp_path: Path, alpha: float) -> None:
    layers = random_layers(alpha)
    public = read_keras(write_h5(tmp_path / "mobilenet_2_5_160_tf.h5", layers))
    assert public.backbone.width_mult == alpha
    assert public.size_hw == (160, 160)
    assert not public.folded
    taps = MobileNetV1(alpha, (4, 8, 16, 32)).eval()
    taps.load_state_dict(public.backbone.state_dict())
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    expected = keras_forward(layers, images)
    with torch.inference_mode():
        names = ("conv_pw_3", "conv_pw_5", "conv_pw_11", "conv_pw_13")
        for ours, name in zip(taps(images), names, strict=True):
            torch.testing.assert_close(ours, expected[name], rtol=1e-4, atol=1e-4)
        assert public.classifier is not None
        logits = public.classifier(images)
    torch.testing.assert_close(logits, expected["conv_preds"], rtol=1e-4, atol=1e-4)


def test_read_keras__no_top__is_a_backbone(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "mobilenet_5_0_224_tf_no_top.h5", random_layers(0.5, None))
    assert read_keras(path).classifier is None
    net = MobileNetV1(width_mult=0.5)
    assert not load_weights(net, path).folded
    assert MobileNetV1.from_pretrained(path).width_mult == 0.5


def test_read_keras__whole_model__is_read_too(tmp_path: Path) -> None:
    layers = random_layers(0.25)
    public = read_keras(write_h5(tmp_path / "model.h5", layers, group="model_weights"))
    kernel = layers["conv1"]["kernel"]
    assert public.backbone.stem.conv.weight[5, 2, 0, 1] == kernel[0, 1, 2, 5]
    assert public.size_hw is None


def without(layers: Layers, name: str) -> Layers:
    return {key: value for key, value in layers.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: without(layers, "conv_pw_4_bn"), "conv_pw_4_bn/gamma is missing"),
        (lambda layers: without(layers, "conv1"), "no layers conv1 and conv_pw_13"),
        (
            lambda layers: layers | {"conv_dw_14": layers["conv_dw_13"]},
            "1 tensors have no place in this network: conv_dw_14/depthwise_kernel",
        ),
        (
            lambda layers: layers | {"conv1": {"kernel": np.zeros((3, 3, 3, 9), np.float32)}},
            r"conv1/kernel has shape \(3, 3, 3, 9\), the network wants \(3, 3, 3, 8\)",
        ),
    ],
)
def test_read_keras__what_does_not_fit__is_named(tmp_path: Path, change, message: str) -> None:
    path = write_h5(tmp_path / "m.h5", change(random_layers(0.25)))
    with pytest.raises(WeightsError, match=message):
        read_keras(path)


def test_read_keras__another_layout__says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_group("layers/conv1")
    with pytest.raises(WeightsError, match="no attribute layer_names"):
        read_keras(tmp_path / "m.h5")


def test_read_keras__cut_short__says_so(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5", random_layers(0.25))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(WeightsError, match="a damaged HDF5 file"):
        read_keras(path)


def test_read_keras__without_h5py__says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_h5(tmp_path / "m.h5", random_layers(0.25))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match="needs h5py: pip install h5py"):
        read_keras(path)
