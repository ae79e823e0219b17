"""Layers in the precision that they are trained in."""

import torch
import torch.nn.functional as F  # noqa: N812

from mobilevision.backbone.layers import PaddedConv2d


def test_padded_conv__strided_depthwise_in_bfloat16__exact_until_the_end() -> None:
    torch.manual_seed(0)
    conv = PaddedConv2d(8, 8, 3, stride=2, groups=8)
    pixels = torch.randn(2, 8, 12, 10).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(pixels)
    exact_pixels = pixels.detach().float().requires_grad_()
    exact = F.conv2d(F.pad(exact_pixels, (0, 1, 0, 1)), conv.weight, stride=2, groups=8)
    assert found.dtype == torch.bfloat16
    # Filters in bfloat16 would differ in the last place here and there.
    assert torch.equal(found, exact.bfloat16())

    upstream = torch.randn(found.shape).bfloat16()
    found.backward(upstream)
    expected = torch.autograd.grad(exact, (conv.weight, exact_pixels), upstream.float())
    assert conv.weight.grad is not None
    assert pixels.grad is not None
    torch.testing.assert_close(conv.weight.grad, expected[0])
    assert torch.equal(pixels.grad, expected[1].bfloat16())


def test_padded_conv__evaluated__takes_the_precision_asked_for() -> None:
    torch.manual_seed(0)
    conv = PaddedConv2d(8, 8, 3, stride=2, groups=8).eval()
    pixels = torch.randn(2, 8, 12, 10).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = conv(pixels)
        rounded = F.conv2d(F.pad(pixels, (0, 1, 0, 1)), conv.weight.bfloat16(), stride=2, groups=8)
    assert torch.equal(found, rounded)
