import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevision.backbone import Backbone, ImageClassifier, MobileNetV1
from mobilevision.backbone.layers import ConvNormAct, PaddedConv2d


def multiply_adds(model: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def test_classifier__matches_timm_with_copied_weights() -> None:
    ours = ImageClassifier(MobileNetV1(padding="symmetric", norm_eps=1e-5)).eval()
    theirs = timm.create_model("mobilenetv1_100").eval()
    with torch.no_grad():
        for module in theirs.modules():  # fresh statistics would hide a swapped mean and variance
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
    names, values = list(ours.state_dict()), list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(names, values, strict=True)))
    images = torch.randn(2, 3, 161, 128)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_features__match_timm_at_every_stride() -> None:
    ours = MobileNetV1(padding="symmetric", norm_eps=1e-5, out_strides=(2, 4, 8, 16, 32)).eval()
    theirs = timm.create_model("mobilenetv1_100", features_only=True).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 96, 96)
    for mine, other in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("width_mult", "size", "mega_mult_adds", "mega_params"),
    [  # Howard et al. 2017, Tables 6 and 7; the paper counts convolutions and the classifier
        (1.0, 224, 569, 4.2),
        (0.75, 224, 325, 2.6),
        (0.5, 224, 149, 1.3),
        (0.25, 224, 41, 0.5),
        (1.0, 192, 418, 4.2),
        (1.0, 128, 186, 4.2),
    ],
)
def test_cost__is_the_papers(
    width_mult: float, size: int, mega_mult_adds: int, mega_params: float
) -> None:
    model = ImageClassifier(MobileNetV1(width_mult=width_mult))
    params = sum(parameter.numel() for parameter in model.parameters())
    assert abs(multiply_adds(model, size) / 1e6 - mega_mult_adds) <= 1
    assert round(params / 1e6, 1) == mega_params


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size_hw", [(300, 300), (97, 211), (1, 1), (32, 64)])
def test_feature_maps__have_the_announced_channels_and_sizes(padding, size_hw) -> None:
    net = MobileNetV1(width_mult=0.25, padding=padding, out_strides=(8, 16, 32)).eval()
    maps = net(torch.zeros(1, 3, *size_hw))
    assert isinstance(net, Backbone)
    assert [m.shape[1] for m in maps] == list(net.feature_info.channels)
    for map_, stride in zip(maps, net.feature_info.strides, strict=True):
        assert map_.shape[2:] == tuple(-(-side // stride) for side in size_hw)


def test_gradients__reach_every_parameter() -> None:
    torch.manual_seed(0)
    net = ImageClassifier(MobileNetV1(width_mult=0.25), num_classes=10, dropout=0.1)
    net(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_blocks_past_the_last_tap__are_not_built() -> None:
    net = MobileNetV1(out_strides=(16,))
    assert len(net.blocks) == 11
    assert net.feature_info == ((512,), (16,))


@pytest.mark.parametrize("out_strides", [(), (32, 16), (3,), (16, 16), (64,)])
def test_out_strides__that_the_net_lacks_are_refused(out_strides) -> None:
    with pytest.raises(ValueError, match="out_strides"):
        MobileNetV1(out_strides=out_strides)


def test_width_mult__must_be_positive() -> None:
    with pytest.raises(ValueError, match="width_mult"):
        MobileNetV1(width_mult=0.0)


@pytest.mark.parametrize(
    ("size", "before", "after"),
    [(300, 0, 1), (75, 1, 1), (10, 0, 1), (2, 0, 1), (1, 1, 1)],  # TensorFlow's formula, by hand
)
def test_same_padding__by_hand_at_stride_two(size: int, before: int, after: int) -> None:
    conv = PaddedConv2d(1, 1, 3, stride=2, padding="same")
    images = torch.randn(1, 1, size, size)
    padded = nn.functional.pad(images, (before, after, before, after))
    expected = nn.functional.conv2d(padded, conv.weight, stride=2)
    torch.testing.assert_close(conv(images), expected)


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 1), (1, 7), (2, 2), (8, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_symmetric_padding__is_pytorchs(size_hw: tuple[int, int], stride: int) -> None:
    conv = PaddedConv2d(2, 3, 3, stride=stride, padding="symmetric")
    images = torch.randn(1, 2, *size_hw)
    expected = nn.functional.conv2d(images, conv.weight, stride=stride, padding=1)
    torch.testing.assert_close(conv(images), expected)


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_bfloat16_weight_gradient__is_right_on_tiny_maps(size_hw, padding) -> None:
    torch.manual_seed(0)
    conv = PaddedConv2d(32, 64, 3, stride=2, padding=padding)
    images = torch.randn(32, 32, *size_hw)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        conv.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            conv(images).float().square().sum().backward()
        assert conv.weight.grad is not None
        gradients.append(conv.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.02 * gradients[0].abs().max().item())


def test_channels_last_and_bfloat16__stay_close() -> None:
    torch.manual_seed(0)
    # shallow: in a deep network with random weights rounding errors grow without bound
    net = MobileNetV1(width_mult=0.5, norm_momentum=1.0, out_strides=(4, 8))
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        net.train()(images)
        net.eval()
        plain = net(images)
        last = net.to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = net(images)
    for a, b, c in zip(plain, last, half, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert nn.functional.cosine_similarity(a.flatten(), c.float().flatten(), dim=0) > 0.99


def test_conv_norm_act__has_no_bias_before_the_norm() -> None:
    assert ConvNormAct(3, 8, 3).conv.bias is None
