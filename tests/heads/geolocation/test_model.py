import pytest
import torch
from torch import nn

from mobilevision.apps.costs.paper import GEO_CELLS, geolocation_cost
from mobilevision.backbone import MobileNetV1
from mobilevision.heads.geolocation import CellClassifier


def small(sizes: int | list[int]) -> CellClassifier:
    return CellClassifier(MobileNetV1(0.25, out_strides=(16,)), sizes)


def test_forward__one_logit_a_cell_of_each_partition() -> None:
    network = small([3, 7]).eval()
    images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    logits = network(images)
    assert [each.shape for each in logits] == [(2, 3), (2, 7)]
    features = network.backbone((images.float() - 127.5) / 127.5)[-1].mean(dim=(2, 3))
    assert torch.allclose(torch.cat(logits, dim=1), network.classifier(features), atol=1e-6)


def test_cost__of_the_paper__13_million_parameters_and_580_million_mult_adds() -> None:
    cost = geolocation_cost()
    assert round(cost.params / 1e6) == 13
    assert round(cost.mult_adds / 1e9, 2) == 0.58
    assert pytest.approx(10e6, rel=0.01) == (1024 + 1) * GEO_CELLS


def test_gradient__reaches_every_parameter() -> None:
    network = small([3, 5])
    logits = network(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    (logits[0].square().sum() + logits[1].square().sum()).backward()
    without = [
        name for name, value in network.named_parameters()
        if value.grad is None or not value.grad.abs().sum() > 0
    ]  # fmt: skip
    assert without == []


@pytest.mark.parametrize("sizes", [0, [], [4, 0]])
def test_init__no_cells__refused(sizes) -> None:
    with pytest.raises(ValueError, match="num_classes"):
        small(sizes)


def test_init__no_backbone__refused() -> None:
    with pytest.raises(TypeError, match="feature_info"):
        CellClassifier(nn.Identity(), 3)
