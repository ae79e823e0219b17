import pytest
import torch
from torch import nn

from mobilevision.backbone import ImageClassifier, MobileNetV1
from mobilevision.heads.classification import Classifier


def small(**options) -> Classifier:
    return Classifier(MobileNetV1(0.25, out_strides=(32,)), num_classes=5, **options)


def test_forward__is_image_classifier_on_normalized_pixels() -> None:
    ours = small(pixel_mean=100.0, pixel_std=50.0, head_channels=32).eval()
    plain = ImageClassifier(MobileNetV1(0.25, out_strides=(32,)), 5, head_channels=32).eval()
    plain.load_state_dict(ours.state_dict())
    images = torch.randint(256, (2, 3, 65, 48), dtype=torch.uint8)
    expected = plain((images.float() - 100) / 50)
    assert torch.allclose(ours(images), expected)
    assert torch.allclose(ours(images.float()), expected)


def test_gradients__reach_every_parameter() -> None:
    network = small(dropout=0.1, head_channels=16)
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    nn.functional.cross_entropy(network(images), torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_constructor__refuses_what_cannot_work() -> None:
    with pytest.raises(TypeError, match="no Backbone"):
        Classifier(nn.Identity(), 5)
    with pytest.raises(ValueError, match="num_classes=0"):
        Classifier(MobileNetV1(0.25), 0)
    with pytest.raises(ValueError, match="dropout=1"):
        Classifier(MobileNetV1(0.25), 5, dropout=1.0)
