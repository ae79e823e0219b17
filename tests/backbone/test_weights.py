import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.norms import calibrate_norms
from mobilevision.backbone.weights import (
    WeightsError,
    load_classifier,
    load_weights,
    slim_layers,
)


def slim_arrays(net: MobileNetV1) -> dict[str, np.ndarray]:
    """Random arrays with the names and layouts of a TF-slim file for this network."""
    rng = np.random.default_rng(0)
    arrays = {}
    for scope, layer in slim_layers(net).items():
        out, per_group, height, width = layer.conv.weight.shape
        depthwise = layer.conv.groups > 1
        shape = (height, width, out, 1) if depthwise else (height, width, per_group, out)
        name = "depthwise_weights" if depthwise else "weights"
        arrays[f"{scope}/{name}"] = rng.normal(size=shape).astype(np.float32)
        arrays[f"{scope}/bias"] = rng.normal(size=out).astype(np.float32)
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_load_weights__sets_every_kernel_in_pytorchs_layout(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    arrays = slim_arrays(net)
    loaded = load_weights(net, write_npz(tmp_path / "w.npz", arrays))
    assert loaded.folded
    stem = arrays["MobilenetV1/Conv2d_0/weights"]
    depthwise = arrays["MobilenetV1/Conv2d_3_depthwise/depthwise_weights"]
    assert net.stem.conv.weight[5, 2, 0, 1] == stem[0, 1, 2, 5]
    assert net.blocks[2].depthwise.conv.weight[7, 0, 2, 1] == depthwise[2, 1, 7, 0]
    images = torch.randn(1, 3, 32, 32)
    raw = torch.nn.functional.conv2d(
        torch.nn.functional.pad(images, (0, 1, 0, 1)),
        torch.from_numpy(stem.transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(arrays["MobilenetV1/Conv2d_0/bias"]),
        stride=2,
    )
    torch.testing.assert_close(net.eval().stem(images), raw.clamp(0, 6), rtol=1e-5, atol=1e-5)


def test_load_weights__of_another_width_names_the_array(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "w.npz", slim_arrays(MobileNetV1(width_mult=0.25)))
    with pytest.raises(WeightsError, match=r"Conv2d_0/weights has shape .*width_mult"):
        load_weights(MobileNetV1(width_mult=0.5), path)


def test_load_weights__with_a_missing_array_names_it(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    arrays = slim_arrays(net)
    del arrays["MobilenetV1/Conv2d_7_pointwise/bias"]
    with pytest.raises(WeightsError, match="Conv2d_7_pointwise/bias is missing"):
        load_weights(net, write_npz(tmp_path / "w.npz", arrays))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.npz", None, "no weights at"),
        ("text.npz", b"hello", "not a readable .npz"),
        ("empty.npz", b"", "not a readable .npz"),
        ("model.h5", b"hello", "not '.h5'"),
        ("text.ckpt", b"hello", "not a readable checkpoint"),
    ],
)
def test_load_weights__from_a_bad_file(tmp_path: Path, name, content, message) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_weights(MobileNetV1(width_mult=0.25), tmp_path / name)


def test_load_weights__from_our_own_checkpoint(tmp_path: Path) -> None:
    source, target = MobileNetV1(width_mult=0.25), MobileNetV1(width_mult=0.25)
    state = {f"network.backbone.{name}": value for name, value in source.state_dict().items()}
    state["network.predictors.0.bias"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "own.ckpt")
    assert not load_weights(target, tmp_path / "own.ckpt").folded
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_load_weights__refuses_a_pickle_that_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "payload": pytest}, tmp_path / "x.ckpt", pickle_module=_Reduce)
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        load_weights(MobileNetV1(width_mult=0.25), tmp_path / "x.ckpt")


class _Reduce:
    """A pickle module whose files call a function when they are loaded."""

    import pickle

    dumps, HIGHEST_PROTOCOL = pickle.dumps, pickle.HIGHEST_PROTOCOL

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: object) -> object:
            return (print, ("loaded",)) if value is pytest else NotImplemented


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "width_mult", "size", "top1"),  # top-1 as measured independently on these pictures
    [
        ("mobilenet_v1_0.25_128", 0.25, 128, 0.5250),
        ("mobilenet_v1_0.50_160", 0.50, 160, 0.6775),
        ("mobilenet_v1_0.75_192", 0.75, 192, 0.7525),
        ("mobilenet_v1_1.0_224", 1.00, 224, 0.7900),
    ],
)
def test_real_weights__have_their_published_accuracy(
    real_data: Path, name: str, width_mult: float, size: int, top1: float
) -> None:
    model = load_classifier(real_data / "weights" / f"{name}.npz", width_mult).eval()
    images, labels = imagenet_pictures(real_data, size)
    correct = 0
    with torch.inference_mode():
        for batch, truth in zip(images.split(50), labels.split(50), strict=True):
            correct += int((model(batch).argmax(dim=1) == truth).sum())
    assert abs(correct - top1 * len(labels)) <= 1


@pytest.mark.real_data
def test_calibrated_weights__train_sanely_and_evaluate_exactly(real_data: Path) -> None:
    model = load_classifier(real_data / "weights" / "mobilenet_v1_0.25_128.npz", 0.25).eval()
    images, labels = imagenet_pictures(real_data, 128, count=128)
    with torch.inference_mode():
        before = model(images)
        uncalibrated = accuracy(model.train()(images), labels)
    model = load_classifier(real_data / "weights" / "mobilenet_v1_0.25_128.npz", 0.25).eval()
    calibrate_norms(model, images[:64].split(32))
    with torch.inference_mode():
        after = model.eval()(images)
        training = accuracy(model.train()(images), labels)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-3)
    assert uncalibrated < 0.1
    assert training > 0.8 * accuracy(before, labels)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()


def imagenet_pictures(
    root: Path, size: int, count: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    folder = root / "imagenet_val"
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:count]
    images = [
        np.asarray(
            Image.open(folder / row["file"]).convert("RGB").resize((size, size), Image.BILINEAR)
        )
        for row in rows
    ]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return pixels / 128 - 1, torch.tensor([int(row["label"]) for row in rows])
