"""The network of both jobs."""

import pytest
import torch
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.cost import count_cost
from mobilevision.backbone.layers import fuse
from mobilevision.heads.face_attributes import AttributeNetwork
from mobilevision.heads.face_embedding import FaceNetwork
from mobilevision.heads.faces import FacesNetwork


def backbone(width_mult: float = 0.25) -> MobileNetV1:
    return MobileNetV1(width_mult, out_strides=(32,))


def network(**options) -> FacesNetwork:
    torch.manual_seed(0)
    return FacesNetwork(backbone(), 3, 8, **options)


def crops(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 80, 64), dtype=torch.uint8, generator=generator)


def test_network__says_what_two_networks_with_its_weights_say() -> None:
    both = network(landmarks=True).eval()
    embed = FaceNetwork(backbone(), 8).eval()
    describe = AttributeNetwork(backbone(), 3, landmarks=True).eval()
    for alone, head in ((embed, both.embedding), (describe, both.attributes)):
        alone.backbone.load_state_dict(both.backbone.state_dict())
        alone.head.load_state_dict(head.state_dict())
    output, described = both(crops()), describe(crops())
    torch.testing.assert_close(output.embeddings, embed(crops()))
    torch.testing.assert_close(output.attributes.logits, described.logits)
    torch.testing.assert_close(output.attributes.landmarks, described.landmarks)


def test_network__one_pass_through_the_backbone() -> None:
    both = network()
    passes = []
    both.backbone.register_forward_hook(lambda *_: passes.append(1))
    both(crops())
    assert passes == [1]


@pytest.mark.parametrize(
    "options", [{"landmarks": True}, {"pooling": "depthwise", "size_hw": (80, 64), "norm": True}]
)
def test_network__every_parameter_receives_a_gradient(options: dict) -> None:
    both = network(**options)
    output = both(crops())
    loss = output.embeddings[:, 0].sum() + output.embeddings[:, 3].square().sum()
    loss = loss + output.attributes.logits.square().sum()
    if output.attributes.landmarks is not None:
        loss = loss + output.attributes.landmarks.square().sum()
    loss.backward()
    without = [name for name, each in both.named_parameters()
               if each.grad is None or not each.grad.any()]  # fmt: skip
    assert without == []


def test_network__folded__says_the_same() -> None:
    both = network().eval()
    own, folded = both(crops()), fuse(both)(crops())
    torch.testing.assert_close(folded.embeddings, own.embeddings, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        folded.attributes.logits, own.attributes.logits, rtol=1e-3, atol=1e-4
    )


def test_cost__both_jobs_for_the_price_of_one() -> None:
    with torch.device("meta"):
        images = torch.empty(1, 3, 160, 128)
        one = count_cost(FacesNetwork(backbone(1.0), 40), images)
        alone = (FaceNetwork(backbone(1.0)), AttributeNetwork(backbone(1.0), 40))
        two = [count_cost(each, images) for each in alone]
    # The card's figures.
    assert one.mult_adds / 1e6 == pytest.approx(231.9, abs=0.1)
    assert one.params / 1e6 == pytest.approx(3.38, abs=0.01)
    assert sum(cost.mult_adds for cost in two) / 1e6 == pytest.approx(463.6, abs=0.1)
    assert sum(cost.params for cost in two) / 1e6 == pytest.approx(6.59, abs=0.01)


def test_options__out_of_range() -> None:
    with pytest.raises(TypeError, match="no Backbone"):
        FacesNetwork(nn.Identity(), 3)
    with pytest.raises(ValueError, match="dimension=0"):
        FacesNetwork(backbone(), 3, 0)
    with pytest.raises(ValueError, match="num_attributes=0"):
        FacesNetwork(backbone(), 0)
