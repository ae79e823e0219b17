"""Counted mult-adds and parameters: against PyTorch's own counter, and by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from mobilevision.backbone import ImageClassifier, MobileNetV1
from mobilevision.backbone.cost import count_cost
from mobilevision.heads.detection import SSD

NO_SIDE_HEADS = {"aux_logits": False, "init_weights": False}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "mobilenet": (lambda: ImageClassifier(MobileNetV1()), (224, 224)),
    "mobilenet, rectangular and odd": (
        lambda: ImageClassifier(MobileNetV1(width_mult=0.5, padding="symmetric")),
        (161, 97),
    ),
    "ssd": (lambda: SSD(MobileNetV1(), num_classes=90), (600, 600)),
    "resnet50": (lambda: get_model("resnet50"), (224, 224)),
    "resnext": (lambda: get_model("resnext50_32x4d"), (96, 96)),  # grouped convolutions
    "vgg16": (lambda: get_model("vgg16"), (224, 224)),
    "inception": (lambda: get_model("inception_v3", **NO_SIDE_HEADS), (299, 299)),
    "dilated": (lambda: get_model("deeplabv3_resnet50", weights_backbone=None), (65, 65)),
}


def pytorchs_count(network: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(images)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_mult_adds__equal_pytorchs_own_counter(name: str) -> None:
    build, size_hw = NETWORKS[name]
    with torch.device("meta"):
        network, images = build(), torch.empty(1, 3, *size_hw)
        assert count_cost(network, images).mult_adds == pytorchs_count(network, images)


@pytest.mark.parametrize("name", NETWORKS)
def test_params__equal_the_modules(name: str) -> None:
    build, size_hw = NETWORKS[name]
    with torch.device("meta"):
        network = build()
        cost = count_cost(network, torch.empty(1, 3, *size_hw))
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())


def test_mult_adds__where_taps_are_left_out__nominal_kernel() -> None:
    with torch.device("meta"):
        network, images = SSD(MobileNetV1(), num_classes=90), torch.empty(1, 3, 300, 300)
        cost = count_cost(network, images)
        # The last extra map, 2x2x64 to 1x1x128, uses 2x2 of its 3x3 taps.
        assert cost.mult_adds - pytorchs_count(network, images) == (9 - 4) * 64 * 128
    assert (cost.mult_adds, cost.params) == (1_237_129_408, 6_819_839)


def test_layers__by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=2, padding=(1, 2), bias=True),  # 12x10 to 6x5
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding=2, bias=False),
        nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2, bias=False),  # 6x5 to 12x10
        nn.Flatten(),
        nn.Linear(480, 7),
    )
    cost = count_cost(network, torch.zeros(2, 3, 12, 10))
    assert [(layer.kind, layer.mult_adds // 2, layer.params) for layer in cost.layers] == [
        ("conv 3x5", 6 * 5 * 8 * 3 * 15, 8 * 3 * 15 + 8),
        ("normalization", 0, 16),
        ("conv dw 3x3", 6 * 5 * 8 * 9, 8 * 9),
        ("conv 2x2", 6 * 5 * 8 * 2 * 4, 8 * 2 * 4),
        ("fully connected", 480 * 7, 480 * 7 + 7),
    ]
    assert cost.layers[0].input_chw == (3, 12, 10)
    assert cost.layers[0].weight_shape == (8, 3, 3, 5)
    assert cost.layers[0].stride == 2


def test_by_kind__sums_and_order__by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    cost = count_cost(network, torch.zeros(1, 1, 3, 3))
    assert cost.by_kind() == {"conv 1x1": (9 * (4 + 16), 4 + 16 + 4), "normalization": (0, 8)}
    assert (cost.mult_adds, cost.params) == (180, 32)


def test_one_module_called_twice__mult_adds_twice_and_params_once() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    once = count_cost(nn.Sequential(layer), torch.zeros(1, 4, 5, 5))
    twice = count_cost(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4, 5, 5))
    assert twice.mult_adds == 2 * once.mult_adds == 2 * 25 * 4 * 36
    assert twice.params == once.params == 144


def test_two_modules_with_one_weight__params_once() -> None:
    first, second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
    second.weight = first.weight
    cost = count_cost(nn.Sequential(first, second), torch.zeros(1, 6))
    assert (cost.mult_adds, cost.params) == (72, 36)
    assert [layer.params for layer in cost.layers] == [36, 0]


class WithLeftover(nn.Module):
    """A layer that is never called, and a parameter outside of any layer that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(2, 2, bias=False)
        self.unused = nn.Conv2d(2, 2, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, rows: Tensor) -> Tensor:
        return self.used(rows) * self.scale.sum()


def test_what_is_not_called_or_not_known__is_there_with_its_params() -> None:
    cost = count_cost(WithLeftover(), torch.zeros(1, 2))
    assert [(each.name, each.kind, each.mult_adds, each.params) for each in cost.layers] == [
        ("", "other", 0, 3),
        ("used", "fully connected", 4, 4),
        ("unused", "conv 1x1", 0, 4),
    ]


def test_counting__leaves_mode_statistics_and_hooks() -> None:
    network = ImageClassifier(MobileNetV1(width_mult=0.25), num_classes=3).train()
    network.backbone.stem.eval()  # type: ignore[union-attr]
    modes = {name: part.training for name, part in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_cost(network, torch.rand(2, 3, 64, 64))
    assert {name: part.training for name, part in network.named_modules()} == modes
    assert not modes["backbone.stem.norm"]
    assert modes["classifier"]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(not part._forward_hooks for part in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_counting__that_fails__leaves_mode_and_hooks() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1)).train()
    with pytest.raises(RuntimeError, match="channels"):
        count_cost(network, torch.zeros(1, 5, 2, 2))
    assert network[0].training
    assert not network[0]._forward_hooks
