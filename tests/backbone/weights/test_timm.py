"""timm's weights in our network, against timm's own module."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.layers import ConvNormAct
from mobilevision.backbone.weights.converters import PublicModel, timm_to_mobilenet
from mobilevision.backbone.weights.formats import read_state_dict
from mobilevision.backbone.weights.loading import load_weights

timm = pytest.importorskip("timm")
STRIDES = (2, 4, 8, 16, 32)


def read_timm(path: Path) -> PublicModel:
    return timm_to_mobilenet(read_state_dict(path), path)


def random_timm(name: str, num_classes: int = 1000) -> nn.Module:
    """timm's module with random weights, and statistics as if it had been trained."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize(
    ("name", "width_mult", "head_channels"),
    [
        ("mobilenetv1_100", 1.0, None),
        ("mobilenetv1_100h", 1.0, 1024),
        ("mobilenetv1_125", 1.25, None),
    ],
)
def test_timm__random_weights__same_maps_and_logits(
    name: str, width_mult: float, head_channels: int | None
) -> None:
    theirs = random_timm(name)
    public = timm_to_mobilenet(theirs.state_dict())
    assert public.kind == f"timm's {name}"
    assert public.backbone.width_mult == width_mult
    assert isinstance(public.classifier.head, ConvNormAct) == (head_channels is not None)  # type: ignore[union-attr]
    features = timm.create_model(name, features_only=True).eval()
    features.load_state_dict(
        {k: v for k, v in theirs.state_dict().items() if k in features.state_dict()}
    )
    taps = MobileNetV1(width_mult, STRIDES, padding="symmetric", norm_eps=1e-5).eval()
    taps.load_state_dict(public.backbone.state_dict())
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    with torch.inference_mode():
        assert public.classifier is not None
        torch.testing.assert_close(public.classifier(images), theirs(images), rtol=1e-4, atol=1e-4)
        for ours, other in zip(taps(images), features(images), strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_timm__images__are_normalized_as_timms_configuration_says() -> None:
    model = random_timm("mobilenetv1_100")
    public = timm_to_mobilenet(model.state_dict())
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]  # type: ignore[index]
    assert mean == (public.pixel_mean / 255,) * 3
    assert std == (public.pixel_std / 255,) * 3
    assert model.pretrained_cfg["input_size"][1:] == public.size_hw  # type: ignore[index]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_timm("mobilenetv1_100", num_classes=7).state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_read_timm__every_format__is_the_same(
    tmp_path: Path, state: dict[str, Tensor], suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save({"state_dict": state} if suffix == ".pth" else state, path)
    public = read_timm(path)
    assert public.head_arguments == {"num_classes": 7}
    assert torch.equal(public.classifier.classifier.bias, state["classifier.bias"])  # type: ignore[union-attr]
    backbone = MobileNetV1(padding="symmetric", norm_eps=1e-5)
    assert not load_weights(backbone, path).folded
    assert torch.equal(backbone.stem.norm.running_var, state["bn1.running_var"])  # type: ignore[arg-type]


def test_load_weights__timm_into_tensorflows_conventions__refused(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"padding='symmetric' and norm_eps=1e-05"):
        load_weights(MobileNetV1(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"has padding='symmetric' and norm_eps=0\.001"):
        load_weights(MobileNetV1(padding="symmetric"), tmp_path / "model.pth")
    made = MobileNetV1.from_pretrained(tmp_path / "model.pth", out_strides=(8,))
    assert (made.stem.conv.kind, made.stem.norm.eps) == ("symmetric", 1e-5)


def test_timm_to_mobilenet__no_classes__is_a_backbone(state: dict[str, Tensor]) -> None:
    body = {name: value for name, value in state.items() if not name.startswith("classifier")}
    assert timm_to_mobilenet(body).classifier is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.3.4.bn1.running_mean": None}, r"blocks\.3\.4\.bn1\.running_mean is missing"),
        ({"blocks.3.6.conv_dw.weight": torch.zeros(1)}, r"1 tensors have no place .*blocks\.3\.6"),
        ({"blocks.0.0.conv_pw.weight": torch.zeros(64, 31, 1, 1)}, r"has shape \(64, 31, 1, 1\)"),
        ({"bn1.running_var": torch.full((32,), -1.0)}, "bn1.running_var has negative variances"),
        ({"bn1.bias": torch.full((32,), torch.inf)}, r"bn1\.bias has values that are not finite"),
        ({"blocks.4.1.conv_pw.weight": torch.zeros(3, 1024, 1, 1)}, "has 3 channels: not a Mobile"),
        ({"conv_stem.weight": None}, r"no conv_stem\.weight: not a MobileNetV1 of timm"),
    ],
)
def test_timm_to_mobilenet__what_does_not_fit__is_named(
    state: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    changed = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(WeightsError, match=message):
        timm_to_mobilenet(changed)


def test_read_timm__no_state_dict__refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": 1}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"no conv_stem\.weight"):
        read_timm(tmp_path / "other.pth")
    torch.save({"epoch": 3, "a": torch.zeros(1)}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match="not a state dict"):
        read_timm(tmp_path / "mixed.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list and not named tensors"):
        read_timm(tmp_path / "list.pth")
