"""Folding normalization away changes nothing but the time."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevision.backbone import ImageClassifier, MobileNetV1, fuse
from mobilevision.backbone.layers import ConvNormAct, FusedConvAct, freeze_norms
from mobilevision.backbone.weights.loading import load_classifier
from mobilevision.heads.detection.ssd import SSD

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "same": lambda: MobileNetV1(0.25, (2, 16, 32)),
    "symmetric": lambda: MobileNetV1(0.25, padding="symmetric"),
    "dilated": lambda: MobileNetV1(0.25, (8,), output_stride=8),
    "full": lambda: MobileNetV1(0.25, convolution="full", shallow=True),
    "classifier": lambda: ImageClassifier(MobileNetV1(0.25), 10, head_channels=24),
    "detector": lambda: SSD(MobileNetV1(0.25), num_classes=3),
    "relu": lambda: MobileNetV1(0.25, (2, 32), activation="relu"),
}


def trained(network: nn.Module) -> nn.Module:
    """Give normalization the statistics of noise and random scales, as training would."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = None
    with torch.no_grad():
        for _ in range(2):
            network.train()(noise(network, 16, (96, 96)))
    return network.eval()


def noise(network: nn.Module, batch: int, size_hw: tuple[int, int]) -> Tensor:
    """Random input in the network's range: detectors take pixels."""
    images = torch.randn(batch, 3, *size_hw)
    return (images * 64 + 128).clamp(0, 255) if isinstance(network, SSD) else images


def tensors(output: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    parts = [output] if isinstance(output, Tensor) else output
    return [part for part in parts if isinstance(part, Tensor)]


def assert_same(found: object, expected: object, tolerance: float = 1e-4) -> None:
    for mine, other in zip(tensors(found), tensors(expected), strict=True):  # type: ignore[arg-type]
        size = other.abs().max().item()
        assert size > 0
        torch.testing.assert_close(mine.float(), other, rtol=0.0, atol=tolerance * size)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("size_hw", [(96, 96), (33, 130), (1, 1)])
@torch.no_grad()
def test_outputs__are_those_of_the_original(make: Callable[[], nn.Module], size_hw) -> None:
    network = trained(make())
    images = noise(network, 2, size_hw)
    expected = network(images)
    fused = fuse(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert_same(fused(images), expected)
    assert_same(fused(images.contiguous(memory_format=torch.channels_last)), expected)


def test_original__stays_as_it_was() -> None:
    network = trained(MobileNetV1(0.25)).train()
    before = copy.deepcopy(network.state_dict())
    fused = fuse(network)
    assert network.training
    assert not fused.training
    assert isinstance(network.stem, ConvNormAct)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not {p.data_ptr() for p in network.parameters()} & {
        p.data_ptr() for p in fused.parameters()
    }
    assert not any(p.requires_grad for p in fused.parameters())


def test_training_mode__does_not_bring_normalization_back() -> None:
    network = trained(MobileNetV1(0.25))
    images = torch.randn(2, 3, 64, 64)
    assert_same(fuse(network).train()(images), network(images))


@pytest.mark.parametrize(("activation", "highest"), [("relu6", 6.0), ("relu", 11.0)])
def test_fold__of_one_layer__by_hand(activation, highest: float) -> None:
    layer = ConvNormAct(1, 1, 1, norm_eps=0.0, activation=activation)
    nn.init.constant_(layer.conv.weight, 3.0)
    nn.init.constant_(layer.norm.weight, 5.0)
    nn.init.constant_(layer.norm.bias, 1.0)
    layer.norm.running_mean = torch.tensor([2.0])
    layer.norm.running_var = torch.tensor([4.0])
    fused = fuse(layer)
    assert isinstance(fused, FusedConvAct)
    assert fused.weight.item() == pytest.approx(3.0 * 5.0 / 2.0)
    assert fused.bias.item() == pytest.approx(1.0 - 2.0 * 5.0 / 2.0)
    # 7.5 x - 4: below zero, between, and above six
    images = torch.tensor([0.5, 1.0, 2.0]).reshape(1, 1, 1, 3)
    expected = pytest.approx([0.0, 3.5, highest])
    assert fused(images).flatten().tolist() == expected
    assert layer.eval()(images).flatten().tolist() == expected


def test_fold__another_activation_is_kept() -> None:
    layer = trained(ConvNormAct(3, 4, 3))
    layer.act = nn.Identity()
    images = torch.randn(1, 3, 8, 8)
    assert layer(images).min() < 0
    assert_same(fuse(layer)(images), layer(images))


def test_fold__frozen_normalization_too() -> None:
    network = trained(MobileNetV1(0.25))
    images = torch.randn(1, 3, 64, 64)
    expected = network(images)
    freeze_norms(network)
    assert_same(fuse(network)(images), expected)


def test_fold__a_shared_layer_stays_one() -> None:
    layer = ConvNormAct(4, 4, 3)
    fused = fuse(nn.Sequential(layer, nn.Identity(), layer))
    assert isinstance(fused, nn.Sequential)
    assert fused[0] is fused[2]


def test_weights__are_channels_last() -> None:
    for module in fuse(MobileNetV1(0.25)).modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_to_fold__is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no ConvNormAct"):
        fuse(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


def test_no_running_statistics__is_refused() -> None:
    layer = ConvNormAct(3, 4, 1)
    layer.norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        fuse(layer)


def test_gradient__reaches_the_images() -> None:
    network = trained(MobileNetV1(0.25, (8,)))
    gradients = []
    for net in (network, fuse(network)):
        images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        net(images.requires_grad_())[0].square().sum().backward()
        assert images.grad is not None
        gradients.append(images.grad)
    assert_same(gradients[1], gradients[0], tolerance=1e-3)


@torch.no_grad()
def test_bfloat16__stays_close() -> None:
    network = trained(MobileNetV1(0.25, (4, 8)))
    images = torch.randn(2, 3, 64, 64)
    expected = network(images)
    half = fuse(network).bfloat16()(images.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = fuse(network)(images)
    for low, other, exact in zip(half, mixed, expected, strict=True):
        assert low.dtype == other.dtype == torch.bfloat16
        for found in (low, other):
            error = (found.float() - exact).norm() / exact.norm()
            assert error < 0.06


@torch.no_grad()
def test_empty_batch__gives_empty_maps() -> None:
    maps = fuse(MobileNetV1(0.25))(torch.zeros(0, 3, 64, 64))
    assert [tuple(map_.shape) for map_ in maps] == [(0, 128, 4, 4), (0, 256, 2, 2)]


@torch.no_grad()
def test_export__has_public_operators_only() -> None:
    network = trained(ImageClassifier(MobileNetV1(0.25), 7))
    fused = fuse(network)
    program = torch.export.export(
        fused, (torch.randn(2, 3, 65, 97),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv2d" in name for name in operators)
    assert not any("mkldnn" in name or "batch_norm" in name for name in operators)
    images = torch.randn(3, 3, 65, 97)
    assert_same(program.module()(images), network(images))


@torch.no_grad()
def test_compile__traces_one_graph() -> None:
    network = trained(MobileNetV1(0.25))
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(fuse(network), fullgraph=True, backend="eager")
    assert_same(compiled(images), network(images))


@torch.no_grad()
def test_cost__convolutions_are_still_convolutions() -> None:
    with torch.device("meta"):
        network = MobileNetV1(0.25).eval()
        counts = []
        for net in (network, fuse(network)):
            with FlopCounterMode(display=False) as counter:
                net(torch.empty(1, 3, 96, 96))
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@torch.no_grad()
def test_compile__with_inductor__gives_the_same() -> None:
    network = trained(MobileNetV1(0.25, (2,)))  # more layers take longer to compile
    images = torch.randn(2, 3, 33, 64)
    assert_same(torch.compile(network, fullgraph=True)(images), network(images))


@pytest.mark.real_data
@torch.no_grad()
def test_public_weights__same_logits(real_data: Path) -> None:
    network = load_classifier(real_data / "weights" / "mobilenet_v1_0.25_128.npz", 0.25).eval()
    images = torch.rand(4, 3, 128, 128) * 2 - 1
    assert_same(fuse(network)(images), network(images))
