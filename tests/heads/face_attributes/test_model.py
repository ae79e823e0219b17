import pytest
import torch
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.layers import fuse
from mobilevision.heads.face_attributes import AttributeHead, AttributeNetwork
from mobilevision.heads.face_attributes.model import landmarks_in_pixels


def small(landmarks: bool = True) -> AttributeNetwork:
    torch.manual_seed(0)
    return AttributeNetwork(MobileNetV1(0.25, out_strides=(32,)), 3, landmarks=landmarks)


def test_attribute_network__outputs_and_types() -> None:
    network = small().eval()
    images = torch.randint(0, 256, (2, 3, 80, 64), dtype=torch.uint8)
    output = network(images)
    assert output.logits.shape == (2, 3)
    assert output.landmarks is not None
    assert output.landmarks.shape == (2, 5, 2)
    assert torch.equal(network.train(False)(images).logits, output.logits)
    assert small(landmarks=False)(images).landmarks is None


def test_attribute_network__normalizes_by_its_own_numbers() -> None:
    network = small().eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    by_hand = network.head(network.backbone(images.float() / 127.5 - 1)[-1])
    assert torch.allclose(network(images).logits, by_hand.logits, atol=1e-6)


def test_attribute_network__every_parameter__receives_a_gradient() -> None:
    network = small().train()
    output = network(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    assert output.landmarks is not None
    (output.logits.square().sum() + output.landmarks.square().sum()).backward()
    without = [name for name, each in network.named_parameters()
               if each.grad is None or not each.grad.abs().sum()]  # fmt: skip
    assert without == []


def test_attribute_head__mean_of_a_map__by_hand() -> None:
    head = AttributeHead(2, 1, landmarks=True)
    assert head.points is not None
    with torch.no_grad():
        head.attributes.weight.copy_(torch.tensor([[2.0, -1.0]]))
        head.attributes.bias.fill_(0.5)
        head.points.weight.zero_()
    features = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]])  # means 2 and 4
    output = head(features)
    assert output.logits.tolist() == [[0.5]]
    assert output.landmarks is not None
    assert output.landmarks.unique().tolist() == [0.5]


def test_attribute_network__folded__says_the_same() -> None:
    network = small().eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.allclose(fuse(network)(images).logits, network(images).logits, atol=1e-4)


def test_landmarks_in_pixels__corners() -> None:
    said = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.5, 0.25], [0.0, 1.0]]])
    pixels = landmarks_in_pixels(said, (160, 128))
    assert pixels[0].tolist() == [[-0.5, -0.5], [127.5, 159.5], [63.5, 79.5], [63.5, 39.5],
                                  [-0.5, 159.5]]  # fmt: skip


def test_attribute_network__bad_arguments__refused() -> None:
    with pytest.raises(TypeError, match="is no Backbone"):
        AttributeNetwork(nn.Identity(), 3)
    with pytest.raises(ValueError, match="num_attributes=0"):
        AttributeHead(8, 0)
    with pytest.raises(ValueError, match=r"dropout=1\.0"):
        AttributeHead(8, 1, dropout=1.0)


@pytest.mark.parametrize(
    ("width", "size", "mult_adds", "params"),
    [(1.0, 224, 568e6, 3.2e6), (0.5, 224, 149e6, 0.8e6), (0.25, 128, 13e6, 0.2e6)],
)
def test_attribute_network__cost__as_in_table_12(
    width: float, size: int, mult_adds: float, params: float
) -> None:
    from mobilevision.backbone.cost import count_cost

    with torch.device("meta"):
        network = AttributeNetwork(MobileNetV1(width, out_strides=(32,)), 40)
        cost = count_cost(network, torch.empty(1, 3, size, size))
    assert cost.mult_adds == pytest.approx(mult_adds, rel=0.05)
    assert cost.params == pytest.approx(params, rel=0.2)
