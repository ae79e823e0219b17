"""The network."""

import pytest
import torch
from torch import nn

from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.cost import count_cost
from mobilevision.heads.face_embedding import EmbeddingHead, FaceNetwork


def network(**options) -> FaceNetwork:
    torch.manual_seed(0)
    return FaceNetwork(MobileNetV1(0.25, out_strides=(32,)), **({"dimension": 16} | options))


@pytest.mark.parametrize("options", [{}, {"pooling": "depthwise", "size": 64}, {"norm": True}])
def test_embeddings__have_unit_length_and_every_parameter_a_gradient(options: dict) -> None:
    net = network(**options)
    faces = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    said = net(faces)
    assert said.shape == (3, 16)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said.norm(dim=1), torch.ones(3))
    (said[:, 0].sum() + said[:, 3].square().sum()).backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_pixels__are_normalized_inside() -> None:
    net = network().eval()
    faces = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    pooled = net.backbone((faces.float() - 127.5) / 127.5)[-1].mean((2, 3))
    expected = nn.functional.normalize(net.head.embedding(pooled), dim=1)
    torch.testing.assert_close(net(faces), expected)


def test_depthwise_pooling__starts_as_the_average() -> None:
    plain, learned = network().eval(), network(pooling="depthwise", size=64).eval()
    learned.backbone.load_state_dict(plain.backbone.state_dict())
    learned.head.embedding.load_state_dict(plain.head.embedding.state_dict())
    faces = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    # Its normalization has an epsilon.
    torch.testing.assert_close(learned(faces), plain(faces), rtol=1e-3, atol=1e-4)


def test_head__mean_of_a_map__by_hand() -> None:
    head = EmbeddingHead(2, 2)
    with torch.no_grad():
        head.embedding.weight.copy_(torch.tensor([[2.0, -1.0], [0.0, 1.0]]))
        head.embedding.bias.copy_(torch.tensor([3.0, 0.0]))
    features = torch.tensor([[[[1.0, 3.0]], [[0.0, 8.0]]]])  # means 2 and 4, so (3, 4)
    torch.testing.assert_close(head(features), torch.tensor([[0.6, 0.8]]))


def test_head__depthwise__maps_that_are_not_square() -> None:
    head = EmbeddingHead(8, 4, "depthwise", (5, 4)).eval()
    assert head(torch.rand(2, 8, 5, 4)).shape == (2, 4)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        head(torch.rand(2, 8, 4, 4))


@pytest.mark.parametrize("options", [{}, {"pooling": "depthwise", "size": 64, "norm": True}])
def test_checkpoint__of_before_the_head_stood_alone__still_loads(options: dict) -> None:
    net = network(**options)
    old = {name.replace("head.", ""): value for name, value in net.state_dict().items()}
    assert {"embedding.weight"} < set(old)
    other = network(**options)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    holder = nn.ModuleDict({"network": other})  # as in a task
    holder.load_state_dict({f"network.{name}": value for name, value in old.items()})
    assert all(torch.equal(value, net.state_dict()[name])
               for name, value in other.state_dict().items())  # fmt: skip


@pytest.mark.parametrize(
    ("width", "size", "millions"),
    [(1.0, 160, 286), (1.0, 128, 185), (0.75, 160, 166), (0.75, 128, 106)],
)
def test_cost__is_that_of_table_14(width: float, size: int, millions: float) -> None:
    with torch.device("meta"):
        net = FaceNetwork(MobileNetV1(width, out_strides=(32,)), dimension=128)
        cost = count_cost(net, torch.zeros(1, 3, size, size))
    assert cost.mult_adds / 1e6 == pytest.approx(millions, rel=0.03)


def test_options__out_of_range() -> None:
    with pytest.raises(TypeError, match="no Backbone"):
        FaceNetwork(nn.Conv2d(3, 8, 3))
    for options in ({"dimension": 0}, {"dropout": 1.0}, {"pooling": "max"}):
        with pytest.raises(ValueError, match="must be at least 1"):
            network(**options)
