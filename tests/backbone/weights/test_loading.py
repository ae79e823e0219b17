import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.external_backbones import TorchvisionFeatures
from mobilevision.backbone.layers import calibrate_norms
from mobilevision.backbone.weights.converters import slim_layers
from mobilevision.backbone.weights.loading import (
    WeightsError,
    load_classifier,
    load_weights,
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


def test_load_weights__of_another_width__says_which(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "w.npz", slim_arrays(MobileNetV1(width_mult=0.25)))
    with pytest.raises(WeightsError, match=r"for width_mult=0.25, the backbone has width_mult=0.5"):
        load_weights(MobileNetV1(width_mult=0.5), path)


def test_load_weights__array_of_another_shape__is_named(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    arrays = slim_arrays(net)
    arrays["MobilenetV1/Conv2d_0/weights"] = np.zeros((3, 3, 3, 9), np.float32)
    with pytest.raises(WeightsError, match=r"Conv2d_0/weights has shape .*\(3, 3, 3, 8\)"):
        load_weights(net, write_npz(tmp_path / "w.npz", arrays))


def test_load_weights__array_without_a_place__is_named(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    arrays = slim_arrays(net) | {"MobilenetV1/Conv2d_14/weights": np.zeros(1, np.float32)}
    with pytest.raises(WeightsError, match=r"1 tensors have no place .*Conv2d_14/weights"):
        load_weights(net, write_npz(tmp_path / "w.npz", arrays))


def test_load_weights__not_a_number__refused(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    arrays = slim_arrays(net)
    arrays["MobilenetV1/Conv2d_2_pointwise/bias"][3] = np.nan
    with pytest.raises(WeightsError, match=r"Conv2d_2_pointwise/bias has values that are not fin"):
        load_weights(net, write_npz(tmp_path / "w.npz", arrays))


def test_load_weights__other_padding__says_how_to_set_it(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25, padding="symmetric")
    path = write_npz(tmp_path / "w.npz", slim_arrays(net))
    with pytest.raises(WeightsError, match=r"for padding='same' .* has padding='symmetric'"):
        load_weights(net, path)


def test_load_weights__folded__fits_any_epsilon(tmp_path: Path) -> None:
    # Early maps: with arrays as wild as these, later ones magnify any rounding.
    net = MobileNetV1(width_mult=0.25, out_strides=(2,)).eval()
    other = MobileNetV1(width_mult=0.25, out_strides=(2,), norm_eps=1e-5).eval()
    path = write_npz(tmp_path / "w.npz", slim_arrays(MobileNetV1(width_mult=0.25)))
    images = torch.rand(1, 3, 32, 32)
    for network in (net, other):
        load_weights(network, path)
    with torch.inference_mode():
        for one, two in zip(net(images), other(images), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-4)


def test_load_weights__other_activation__is_told(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "w.npz", slim_arrays(MobileNetV1(width_mult=0.25)))
    net = MobileNetV1(width_mult=0.25, activation="relu")
    assert load_weights(net, path).activation == "relu6"
    assert net.activation == "relu"


def test_load_weights__fewer_blocks__leaves_out_the_rest(tmp_path: Path) -> None:
    whole, short = MobileNetV1(0.25).eval(), MobileNetV1(0.25, out_strides=(16,)).eval()
    path = write_npz(tmp_path / "w.npz", slim_arrays(whole))
    load_weights(whole, path)
    load_weights(short, path)
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(short(images)[0], whole(images)[0])


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
        ("text.npz", b"hello", "not a weight file that can be read"),
        ("empty.npz", b"", "not a weight file that can be read"),
        ("short.npz", b"PK\x03\x04", "a damaged file"),
        ("short.h5", b"\x89HDF\r\n\x1a\n", "a damaged HDF5 file"),
        ("short.safetensors", b"\x10" + bytes(7) + b"{", "a damaged .safetensors file"),
        ("short.pth", b"\x80\x02", "not a readable checkpoint"),
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


def own_checkpoint(folder: Path, net: MobileNetV1, folded: bool, prefix: str = "network.") -> Path:
    """A checkpoint of this package with plain hyper-parameters; a teacher lies beside the net."""
    state = {f"{prefix}backbone.{name}": value for name, value in net.state_dict().items()}
    teacher = MobileNetV1(width_mult=0.5).state_dict()
    state |= {f"distillation.teacher.backbone.{name}": value for name, value in teacher.items()}
    arguments = {
        "width_mult": net.width_mult, "padding": net.stem.conv.kind, "activation": net.activation
    }  # fmt: skip
    spec = {"class_path": "mobilevision.backbone.MobileNetV1", "init_args": arguments}
    content = {
        "state_dict": state,
        "hyper_parameters": {"network": {"class_path": "x.SSD", "init_args": {"backbone": spec}}},
        "mobilevision": {"format": 1, "provenance": {"folded": folded}},
    }
    torch.save(content, folder / "own.ckpt")
    return folder / "own.ckpt"


def test_load_weights__imported_checkpoint__says_that_it_is_folded(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    assert load_weights(net, own_checkpoint(tmp_path, net, folded=True)).folded
    assert not load_weights(net, own_checkpoint(tmp_path, net, folded=False)).folded


def test_load_weights__folded_and_trained_since__is_not_folded(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    net.train()(torch.rand(2, 3, 32, 32))
    assert not load_weights(net, own_checkpoint(tmp_path, net, folded=True)).folded


def test_load_weights__checkpoint_of_other_padding__says_how_to_set_it(tmp_path: Path) -> None:
    path = own_checkpoint(tmp_path, MobileNetV1(0.25, padding="symmetric"), folded=False)
    with pytest.raises(WeightsError, match="for padding='symmetric'"):
        load_weights(MobileNetV1(0.25), path)


def test_load_weights__checkpoint_without_mobilenet__says_so(tmp_path: Path) -> None:
    torch.save({"state_dict": {"network.fc.weight": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match="has no MobileNetV1 backbone"):
        load_weights(MobileNetV1(0.25), tmp_path / "x.ckpt")


@pytest.mark.parametrize("prefix", ["network.", "network.backbone."])  # of a pyramid, too
def test_from_pretrained__checkpoint__has_its_width_and_weights(
    tmp_path: Path, prefix: str
) -> None:
    net = MobileNetV1(width_mult=0.25, padding="symmetric", activation="relu").eval()
    path = own_checkpoint(tmp_path, net, folded=False, prefix=prefix)
    made = MobileNetV1.from_pretrained(path, out_strides=(8, 32))
    assert (made.width_mult, made.activation, made.training) == (0.25, "relu", False)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(made(images)[1], net(images)[1])
    assert made.out_strides == (8, 32)


def test_from_pretrained__published_file__has_its_width(tmp_path: Path) -> None:
    source = MobileNetV1(width_mult=0.75)
    path = write_npz(tmp_path / "w.npz", slim_arrays(source))
    made = MobileNetV1.from_pretrained(path)
    assert made.width_mult == 0.75
    load_weights(source, path)
    assert torch.equal(made.stem.conv.weight, source.stem.conv.weight)


def test_from_pretrained__checkpoint_made_of_objects__says_what_to_do(tmp_path: Path) -> None:
    state = MobileNetV1(width_mult=0.25).state_dict()
    own = {f"network.backbone.{name}": value for name, value in state.items()}
    torch.save({"state_dict": own, "hyper_parameters": {}}, tmp_path / "own.ckpt")
    with pytest.raises(WeightsError, match=r"does not describe .* load_weights\(backbone, path\)"):
        MobileNetV1.from_pretrained(tmp_path / "own.ckpt")


def test_from_pretrained__name_not_downloaded__says_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="mobilevision weights download mobilenet_v1_1"):
        MobileNetV1.from_pretrained("mobilenet_v1_1.0_224")


def test_load_classifier__other_width_than_wanted__says_which(tmp_path: Path) -> None:
    net = MobileNetV1(width_mult=0.25)
    logits = {
        "MobilenetV1/Logits/Conv2d_1c_1x1/weights": np.zeros((1, 1, 256, 5), np.float32),
        "MobilenetV1/Logits/Conv2d_1c_1x1/bias": np.arange(5, dtype=np.float32),
    }
    path = write_npz(tmp_path / "w.npz", slim_arrays(net) | logits)
    with pytest.raises(WeightsError, match=r"its width_mult is 0\.25, not 0\.5"):
        load_classifier(path, 0.5)
    found = load_classifier(path).classifier.bias
    assert found.tolist() == [1, 2, 3, 4]  # without background
    with pytest.raises(WeightsError, match="no classifier in this file"):
        load_classifier(write_npz(tmp_path / "w.npz", slim_arrays(net)))


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
def test_calibrated_weights__train_sanely_and_evaluate_exactly(real_data: Path) -> None:
    model = load_classifier(real_data / "weights" / "mobilenet_v1_0.25_128.npz", 0.25).eval()
    images, labels = imagenet_images(real_data, 128, count=128)
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


def imagenet_images(
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


@pytest.mark.parametrize("prefix", ["", "backbone.", "network.backbone."])
def test_load_weights__any_backbone__from_its_own_names(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = (TorchvisionFeatures("squeezenet1_0", ["features.12"]) for _ in range(2))
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    state |= {"network.head.weight": torch.zeros(2)} if prefix else {}
    torch.save({"state_dict": state} if prefix else state, tmp_path / "a.ckpt")
    assert load_weights(target, tmp_path / "a.ckpt") == (tmp_path / "a.ckpt", False, "relu6")
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_load_weights__any_backbone__what_does_not_fit_is_named(tmp_path: Path) -> None:
    backbone = TorchvisionFeatures("squeezenet1_0", ["features.12"])
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    first = next(iter(before))
    path = tmp_path / "a.pth"
    torch.save({name: value for name, value in before.items() if name != first}, path)
    with pytest.raises(WeightsError, match=rf"a\.pth: {first} is missing.*TorchvisionFeatures"):
        load_weights(backbone, path)
    torch.save(before | {first: before[first][:1]}, path)
    with pytest.raises(WeightsError, match=rf"(?s)a\.pth: does not fit.*{first}"):
        load_weights(backbone, path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"a\.pth"):
        load_weights(backbone, path)
    np.savez(tmp_path / "c.npz", x=np.zeros(1))
    with pytest.raises(WeightsError, match=r"c\.npz: these weights are for MobileNetV1, not for T"):
        load_weights(backbone, tmp_path / "c.npz")
    with pytest.raises(WeightsError, match="absent"):
        load_weights(backbone, tmp_path / "absent.pth")
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=rf"b\.safetensors: {first} is missing"):
        load_weights(backbone, tmp_path / "b.safetensors")
