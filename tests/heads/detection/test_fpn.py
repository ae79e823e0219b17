from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.mobilenet import Backbone
from mobilevision.heads.detection.fpn import FeaturePyramid


def pyramid(**options) -> FeaturePyramid:
    torch.manual_seed(0)
    return FeaturePyramid(MobileNetV1(0.25, out_strides=(8, 16, 32)), channels=16, **options)


def test_pyramid__is_a_backbone_that_says_what_it_hands_on() -> None:
    model = pyramid().eval()
    assert isinstance(model, Backbone)
    assert model.feature_info.strides == (8, 16, 32, 64, 128)
    for size in ((256, 384), (130, 97)):
        maps = model(torch.randn(1, 3, *size))
        assert [map_.shape[1] for map_ in maps] == list(model.feature_info.channels)
        expected = [tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)]
        assert [tuple(map_.shape[-2:]) for map_ in maps] == expected


def test_pyramid__adds_the_coarser_map_to_the_finer_one() -> None:
    model = pyramid(coarser_maps=1).eval()
    images = torch.randn(2, 3, 96, 96)
    c3, c4, c5 = model.body(images)
    lateral, smooth = model.pyramid.inner_blocks, model.pyramid.layer_blocks
    m5 = lateral[2](c5)
    m4 = lateral[1](c4) + m5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    m3 = lateral[0](c3) + m4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = [smooth[i](m) for i, m in enumerate((m3, m4, m5))]
    (layer,) = model.pyramid.extra_blocks.layers
    # an odd map of 3 px: TensorFlow's padding is even
    raw = F.conv2d(expected[-1], layer.conv.weight, stride=2, padding=1)
    expected.append(F.relu6(layer.norm(raw)))
    for ours, theirs in zip(model(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pyramid__gives_every_parameter_a_gradient() -> None:
    model = pyramid().train()
    maps = model(torch.randn(2, 3, 256, 256))
    torch.cat([(map_ * torch.randn_like(map_)).flatten() for map_ in maps]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_pyramid__on_what_is_no_backbone_is_refused() -> None:
    with pytest.raises(TypeError, match="no Backbone"):
        FeaturePyramid(nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3))))
