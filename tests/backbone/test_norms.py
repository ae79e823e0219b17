import pytest
import torch
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.layers import calibrate_norms, set_folded_bias


def folded_backbone() -> MobileNetV1:
    """A backbone whose normalization layers only add a bias, as after loading a folded file."""
    torch.manual_seed(0)
    net = MobileNetV1(width_mult=0.25)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            set_folded_bias(module, torch.randn(module.num_features) * 0.1)
    return net


def test_set_folded_bias__adds_the_bias_and_nothing_else() -> None:
    norm = nn.BatchNorm2d(3, eps=1e-3).eval()
    bias = torch.tensor([0.5, -1.0, 2.0])
    set_folded_bias(norm, bias)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(norm(images), images + bias[:, None, None])


def test_calibration__keeps_evaluation_and_makes_training_mode_agree() -> None:
    net = folded_backbone()
    images = torch.randn(8, 3, 64, 64)
    other = torch.randn(2, 3, 64, 64) * 3
    before = [m.detach() for m in net.eval()(other)]
    assert calibrate_norms(net, images.split(4)) == 8
    for a, b in zip(before, net.eval()(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    # on the calibration images themselves, batch statistics are the running ones
    evaluated = [m.detach() for m in net.eval()(images)]
    for a, b in zip(evaluated, net.train()(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_calibration__changes_a_layer_whose_training_mode_was_wrong() -> None:
    net = folded_backbone()
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        wanted = net.eval()(images)[-1]
        wrong = net.train()(images)[-1]
    assert (wanted - wrong).abs().mean() > 0.1 * wanted.abs().mean()


def test_calibration__without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate_norms(folded_backbone(), [])


def test_calibration__leaves_the_mode_as_it_was() -> None:
    net = folded_backbone().train()
    calibrate_norms(net, [torch.randn(2, 3, 32, 32)])
    assert net.training
    assert not any(module._forward_pre_hooks for module in net.modules())
