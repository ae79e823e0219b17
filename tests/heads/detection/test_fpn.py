from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.mobilenet import Backbone
from mobilevision.heads.detection.fpn import FeaturePyramid, PoolingPyramid


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
    project, smooth = model.projections, model.smoothing
    m5 = project[2](c5)
    m4 = project[1](c4) + m5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    m3 = project[0](c3) + m4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = [smooth[0](m3), smooth[1](m4), m5]  # the coarsest projection is not smoothed
    (layer,) = model.coarser
    # an odd map of 3 px: TensorFlow's padding is even
    raw = F.conv2d(m5, layer.conv.weight, stride=2, padding=1)
    expected.append(F.relu6(layer.norm(raw)))
    for ours, theirs in zip(model(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pyramid__has_biases_or_norms_where_tensorflow_has_them() -> None:
    model = pyramid(norm_momentum=0.003)
    names = {name.partition(".")[2] for name, _ in model.smoothing.named_parameters()}
    assert names == {name.partition(".")[2] for name, _ in model.coarser.named_parameters()}
    assert names == {"conv.weight", "norm.weight", "norm.bias"}
    assert {name for name, _ in model.projections[0].named_parameters()} == {"weight", "bias"}
    norms = {(m.norm.eps, m.norm.momentum) for m in (*model.smoothing, *model.coarser)}
    assert norms == {(1e-3, 0.003)}


def test_pooling_pyramid__keeps_the_largest_of_four_down_to_one_cell() -> None:
    model = PoolingPyramid(MobileNetV1(0.25, out_strides=(16,))).eval()
    assert isinstance(model, Backbone)
    assert model.feature_info == ((128,) * 6, (16, 32, 64, 128, 256, 512))
    (first, *coarser) = model(torch.randn(1, 3, 300, 300))
    assert [map_.shape[-1] for map_ in (first, *coarser)] == [19, 10, 5, 3, 2, 1]
    padded = F.pad(first, (0, 1, 0, 1), value=-torch.inf)  # TensorFlow pads an odd map at its end
    by_hand = padded.unflatten(3, (10, 2)).unflatten(2, (10, 2)).amax(dim=(3, 5))
    assert torch.equal(coarser[0], by_hand)
    assert torch.equal(coarser[-1][..., 0, 0], first.amax(dim=(2, 3)))


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
