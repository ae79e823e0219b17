"""Networks of torchvision and timm behind the Backbone protocol."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from mobilevision.backbone import Backbone, ImageClassifier
from mobilevision.backbone.cost import count_cost
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.external_backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PEERS,
    PeerFeatures,
    TimmFeatures,
    TorchvisionFeatures,
    VggSsdFeatures,
)
from mobilevision.heads.detection import SSD


def imagenet(images: Tensor) -> Tensor:
    """From [-1, 1] to what ImageNet models are trained on."""
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images + 1) / 2 - mean) / std


def random_images(side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def fill_norms(network: nn.Module) -> None:
    """Statistics that are not those of a fresh network, which would hide much."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]


def test_torchvision__maps_are_the_models(tmp_path: Path) -> None:
    theirs = get_model("resnet18", weights=None).eval()
    fill_norms(theirs)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = TorchvisionFeatures("resnet18", weights=tmp_path / "resnet18.pth").eval()
    assert ours.feature_info == ((256, 512), (16, 32))
    assert isinstance(ours, Backbone)
    maps: dict[str, Tensor] = {}
    for name in ("layer3", "layer4"):
        getattr(theirs, name).register_forward_hook(
            lambda _, __, output, name=name: maps.__setitem__(name, output)
        )
    theirs(imagenet(random_images()))
    for mine, other in zip(ours(random_images()), maps.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_timm__maps_are_the_models(tmp_path: Path) -> None:
    theirs: Any = timm.create_model("resnet18").eval()
    fill_norms(theirs)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = TimmFeatures("resnet18", (8, 32), weights=tmp_path / "resnet18.pth").eval()
    assert ours.feature_info == ((128, 512), (8, 32))
    features = theirs.forward_intermediates(imagenet(random_images()), intermediates_only=True)
    for mine, other in zip(ours(random_images()), (features[2], features[4]), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_timm__safetensors__are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = timm.create_model("mobilenetv1_100")
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = TimmFeatures("mobilenetv1_100", (32,), weights=tmp_path / "model.safetensors")
    own = {name.split(".", 1)[1]: value for name, value in ours.state_dict().items()}
    for name, value in own.items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("model", ["mobilenetv1_100", "efficientnet_b0", "resnet18"])
def test_timm__channels_and_strides_of_the_probe__are_those_that_timm_states(model: str) -> None:
    ours = TimmFeatures(model, (8, 16, 32))
    stated: Any = timm.create_model(model, features_only=True, out_indices=(2, 3, 4))
    assert list(ours.feature_info.channels) == stated.feature_info.channels()
    assert list(ours.feature_info.strides) == stated.feature_info.reduction()


def test_pixels__timm_model_that_wants_minus_one_to_one__are_left_alone() -> None:
    ours = TimmFeatures("mobilenetv1_100", (32,))
    torch.testing.assert_close(ours.get_buffer("scale"), torch.ones(3, 1, 1))
    torch.testing.assert_close(ours.get_buffer("shift"), torch.zeros(3, 1, 1))


@pytest.mark.parametrize(
    ("model", "nodes", "channels"),
    [
        ("inception_v3", ("Mixed_6e", "Mixed_7c"), (768, 2048)),
        ("googlenet", ("inception4e", "inception5b"), (832, 1024)),
    ],
)
def test_torchvision__models_that_do_not_pad_or_have_side_heads(
    model: str, nodes: tuple[str, ...], channels: tuple[int, ...], tmp_path: Path
) -> None:
    """torchvision keeps the weights with side heads, and turns ImageNet's range into [-1, 1]."""
    theirs = get_model(model, weights=None, transform_input=True, init_weights=False).eval()
    fill_norms(theirs)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = TorchvisionFeatures(model, nodes, weights=tmp_path / "model.pth").eval()
    assert ours.feature_info == (channels, (16, 32))
    maps = []
    theirs.get_submodule(nodes[-1]).register_forward_hook(lambda *args: maps.append(args[-1]))
    images = random_images(96)
    with torch.no_grad():
        theirs(imagenet(images))
        torch.testing.assert_close(ours(images)[-1], maps[0], rtol=1e-3, atol=1e-4)


def test_vgg_ssd__maps_are_those_of_torchvisions_detector() -> None:
    from torchvision.models.detection import ssd300_vgg16

    ours = VggSsdFeatures().eval()
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=2).eval()
    theirs.backbone.load_state_dict(ours.extractor.state_dict())
    images = (random_images(300)[:1] + 1) / 2
    with torch.no_grad():
        normalized = theirs.transform([images[0]])[0].tensors
        expected = list(theirs.backbone(normalized).values())
        for mine, other in zip(ours(images * 2 - 1), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)
    sides = [each.shape[-1] for each in expected]
    assert sides == [38, 19, 10, 5, 3, 1]
    assert ours.feature_info.channels == tuple(each.shape[1] for each in expected)


def test_heads__take_a_peer_and_train_it() -> None:
    backbone = TorchvisionFeatures("resnet18")
    for network in (SSD(backbone, num_classes=2), ImageClassifier(backbone, num_classes=2)):
        network.train()
        output = network(random_images(96))
        logits = output if isinstance(output, Tensor) else output.class_logits
        network.zero_grad()
        logits.square().sum().backward()
        stem = backbone.extractor.get_parameter("conv1.weight")
        assert stem.grad is not None
        assert stem.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["pickle", "text", "other model", "list", "gone"])
def test_weights__that_are_no_state_dict_of_the_model__are_refused(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if kind == "pickle":
        torch.save(nn.Linear(1, 1), path)
    elif kind == "text":
        path.write_text("no weights")
    elif kind == "other model":
        torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    for build in (TorchvisionFeatures, TimmFeatures):
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            build("resnet18", weights=path)


def test_names__that_do_not_exist__are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resnet17"):
        TimmFeatures("resnet17")
    with pytest.raises(ValueError, match="strides"):
        TimmFeatures("resnet18", (16, 128))
    with pytest.raises(ValueError, match="resnet17"):
        TorchvisionFeatures("resnet17")
    with pytest.raises(ValueError, match="layer9"):
        TorchvisionFeatures("resnet18", ("layer9",))
    with pytest.raises(ValueError, match="not both"):
        TorchvisionFeatures("resnet18", weights=tmp_path, download=True)


def test_maps__not_finest_first__are_refused() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.layer(images)[..., ::4, ::4], self.layer(images)[..., ::2, ::2]]

    with pytest.raises(ValueError, match="finest first"):
        PeerFeatures(Backwards())


@pytest.mark.parametrize(
    (
        "name",
        "mega_params",
    ),
    # As torchvision's documentation states them.
    [("VGG-16", 138.4), ("AlexNet", 61.1), ("ResNet-50", 25.6), ("SqueezeNet", 1.2)],
)
def test_comparison_models__are_those(name: str, mega_params: float) -> None:
    size, build = PEERS[name]
    with torch.device("meta"):
        cost = count_cost(build(1000), torch.empty(1, 3, size, size))
    assert round(cost.params / 1e6, 1) == mega_params
