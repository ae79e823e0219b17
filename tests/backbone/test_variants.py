"""The variants of MobileNet: the paper's Tables 4 and 5, timm's, dilation, checkpointing."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevision.backbone import ImageClassifier, MobileNetV1
from mobilevision.backbone.layers import PaddedConv2d, freeze_norms

VARIANTS: dict[str, dict[str, Any]] = {
    "separable": {},
    "full": {"convolution": "full"},
    "shallow": {"shallow": True},
    "full, shallow": {"convolution": "full", "shallow": True},
    "dilated": {"output_stride": 8, "out_strides": (8,)},
    "checkpointed": {"gradient_checkpointing": True},
    "relu": {"activation": "relu"},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@pytest.mark.parametrize(
    ("options", "mega_mult_adds", "mega_params"),
    [  # Howard et al. 2017, Tables 4 and 5; of the first, 4866.3 without the classifier
        ({"convolution": "full"}, 4866, 29.3),
        ({"shallow": True}, 307, 2.9),
    ],
)
def test_cost__is_the_papers(options, mega_mult_adds: int, mega_params: float) -> None:
    with torch.device("meta"):
        model = ImageClassifier(MobileNetV1(**options)).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    params = sum(parameter.numel() for parameter in model.parameters())
    assert abs(counter.get_total_flops() / 2e6 - mega_mult_adds) <= 1.5
    assert round(params / 1e6, 1) == mega_params


@variants
def test_gradients__numerical_ones_agree_for_every_parameter(options) -> None:
    torch.manual_seed(0)
    body = MobileNetV1(width_mult=0.25, **{"out_strides": (2, 32), **options})
    net = ImageClassifier(body, num_classes=3, head_channels=16).double()
    images = torch.randn(3, 3, 33, 50, dtype=torch.float64)

    def loss() -> Tensor:
        return net(images).square().sum() + sum(map_.square().mean() for map_ in body(images))

    loss().backward()
    step = 1e-8  # more would cross kinks of ReLU6
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                parameter.add_(direction, alpha=sign * step)
                ends.append(loss())
                parameter.sub_(direction, alpha=sign * step)
        numerical = (ends[0] - ends[1]) / (2 * step)
        expected = (parameter.grad * direction).sum()
        torch.testing.assert_close(numerical, expected, rtol=1e-2, atol=1e-4, msg=name)


@variants
def test_gradients__reach_every_parameter(options) -> None:
    torch.manual_seed(0)
    net = ImageClassifier(MobileNetV1(width_mult=0.25, **options), 10, head_channels=16)
    net(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def random_timm(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(name, **options).eval()
    with torch.no_grad():  # fresh statistics would hide a swapped mean and variance
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr,operator]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr,operator]
                module.bias.uniform_(-0.1, 0.1)
    return network


def copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    ours.eval()


@pytest.mark.parametrize(("name", "width_mult"), [("100", 1.0), ("125", 1.25)])
def test_features__all_taps_match_timm(name: str, width_mult: float) -> None:
    theirs = random_timm(f"mobilenetv1_{name}", features_only=True)
    ours = MobileNetV1(width_mult, (2, 4, 8, 16, 32), padding="symmetric", norm_eps=1e-5)
    copy_in_order(ours, theirs)
    images = torch.randn(2, 3, 97, 64)
    assert ours.feature_info.channels == tuple(theirs.feature_info.channels())
    for mine, other in zip(ours(images), theirs(images), strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_features__dilated__match_timm(output_stride: Any) -> None:
    theirs = random_timm("mobilenetv1_100", features_only=True, output_stride=output_stride)
    ours = MobileNetV1(
        1.0, (4, output_stride), "symmetric", norm_eps=1e-5, output_stride=output_stride
    )
    copy_in_order(ours, theirs)
    images = torch.randn(1, 3, 80, 64)
    expected = theirs(images)
    fine, coarse = ours(images)
    torch.testing.assert_close(fine, expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(coarse, expected[-1], rtol=1e-5, atol=1e-5)


def test_h_head__logits_match_timm() -> None:
    theirs = random_timm("mobilenetv1_100h")
    body = MobileNetV1(padding="symmetric", norm_eps=1e-5)
    ours = ImageClassifier(body, head_channels=1024, norm_eps=1e-5)
    copy_in_order(ours, theirs)
    images = torch.randn(2, 3, 64, 96)
    expected = theirs(images)
    assert expected.std() > 1e-4
    torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-6)


@variants
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size_hw", [(97, 211), (1, 1), (32, 64), (3, 130)])
def test_feature_maps__have_the_announced_channels_and_sizes(options, padding, size_hw) -> None:
    net = MobileNetV1(width_mult=0.25, padding=padding, **options).eval()
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, *size_hw))
    for map_, channels, stride in zip(maps, *net.feature_info, strict=True):
        assert map_.shape[1:] == (channels, *(-(-side // stride) for side in size_hw))


def test_dilation__at_every_fourth_pixel_gives_the_coarse_map() -> None:
    """Without strides the network calculates the map of stride 32 at all its shifts, too."""
    torch.manual_seed(0)
    coarse = MobileNetV1(0.25, (32,), padding="symmetric").eval()
    fine = MobileNetV1(0.25, (8,), padding="symmetric", output_stride=8).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(
        fine(images)[0][:, :, ::4, ::4], coarse(images)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (2, 3), (8, 8)])
def test_dilated_convolution__is_pytorchs(padding, size_hw) -> None:
    conv = PaddedConv2d(2, 4, 3, padding=padding, dilation=2)
    images = torch.randn(1, 2, *size_hw)
    expected = nn.functional.conv2d(images, conv.weight, padding=2, dilation=2)
    torch.testing.assert_close(conv(images), expected)


def test_dilated_convolution__same_at_stride_two__by_hand() -> None:
    conv = PaddedConv2d(1, 1, 3, stride=2, padding="same", dilation=2)
    images = torch.randn(1, 1, 8, 7)  # 3 rows and 4 columns: (4 - 1) * 2 + 5 - 8, ... - 7
    padded = nn.functional.pad(images, (2, 2, 1, 2))
    expected = nn.functional.conv2d(padded, conv.weight, stride=2, dilation=2)
    torch.testing.assert_close(conv(images), expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointing__same_gradients_and_statistics(frozen: bool) -> None:
    torch.manual_seed(0)
    nets = [MobileNetV1(0.25, gradient_checkpointing=flag) for flag in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    images = torch.randn(4, 3, 64, 64)
    for net in nets:
        if frozen:
            freeze_norms(net)
        net.train()
        for _ in range(2):
            sum(map_.square().sum() for map_ in net(images)).backward()  # type: ignore[union-attr]
    plain, checkpointed = nets
    for (name, expected), found in zip(
        plain.state_dict().items(), checkpointed.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name
    assert checkpointed.stem.norm.num_batches_tracked == (0 if frozen else 2)
    for (name, expected), found in zip(
        plain.named_parameters(), checkpointed.parameters(), strict=True
    ):
        if expected.grad is None or found.grad is None:
            assert frozen, name
            assert ".norm." in name, name
        else:
            torch.testing.assert_close(found.grad, expected.grad)


def saved_bytes(net: nn.Module, images: Tensor) -> int:
    """Memory of what the forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = net(images)
    del outputs
    return sum(storages.values())


def test_checkpointing__keeps_less() -> None:
    images = torch.randn(2, 3, 96, 96)
    plain, checkpointed = (
        saved_bytes(MobileNetV1(0.25, gradient_checkpointing=flag), images)
        for flag in (False, True)
    )
    assert checkpointed < plain / 2


@pytest.mark.parametrize(
    "options",
    [
        {"convolution": "dense"},
        {"output_stride": 4},
        {"output_stride": 16},
        {"activation": "swish"},
    ],
)
def test_options__that_do_not_exist_are_refused(options) -> None:
    with pytest.raises(ValueError, match="must be"):  # out_strides is (16, 32) by default
        MobileNetV1(**options)


@variants
def test_export__dynamic_batch__gives_the_same(options) -> None:
    net = ImageClassifier(MobileNetV1(0.25, **options), 7).eval()
    program = torch.export.export(
        net, (torch.randn(2, 3, 65, 97),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    for batch in (1, 5):
        images = torch.randn(batch, 3, 65, 97)
        torch.testing.assert_close(program.module()(images), net(images))


@variants
def test_compile__traces_one_graph(options) -> None:
    """Backend ``eager``: the graph alone, without the compiler's minute."""
    net = ImageClassifier(MobileNetV1(0.25, **options), 7)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    images = torch.randn(2, 3, 64, 64)
    net.eval()
    torch.testing.assert_close(compiled(images), net(images))
