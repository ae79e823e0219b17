import pytest
import torch
from torch import nn

from mobilevision.heads.detection.ssd import DepthwisePredictors, Predictors, SharedPredictors

KINDS = [Predictors, DepthwisePredictors, SharedPredictors]


@pytest.mark.parametrize("kind", KINDS)
def test_rows__run_over_cells_and_then_over_the_boxes_of_a_cell(kind) -> None:
    predictors = kind([8, 8], [2, 2], 3)
    maps = [torch.randn(2, 8, 4, 5), torch.randn(2, 8, 2, 3)]
    predictions = predictors.eval()(maps)
    for (deltas, logits), map_ in zip(predictions, maps, strict=True):
        cells = map_.shape[2] * map_.shape[3]
        assert deltas.shape == (2, cells * 2, 4)
        assert logits.shape == (2, cells * 2, 3)
    # with these biases each box and column says which it is
    with torch.no_grad():
        for layer in predictors.class_layers():
            layer.weight.zero_()
            layer.bias.copy_(torch.arange(6.0))
    for _, logits in predictors(maps):
        assert (logits[:, ::2] == torch.tensor([0.0, 1.0, 2.0])).all()
        assert (logits[:, 1::2] == torch.tensor([3.0, 4.0, 5.0])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_depends__on_the_neighborhood_only_where_kernels_are_3x3(kind) -> None:
    torch.manual_seed(0)
    predictors = kind([4], [1], 2).eval()
    features = torch.rand(1, 4, 9, 9)
    changed = features.clone()
    changed[0, :, 4, 4] += 1.0
    (before, _), (after, _) = predictors([features])[0], predictors([changed])[0]
    moved = ((before - after).abs().sum(dim=-1) > 0).view(9, 9)
    reach = {Predictors: 0, DepthwisePredictors: 1, SharedPredictors: 4}[kind]
    outside = torch.ones(9, 9, dtype=torch.bool)
    outside[4 - reach : 5 + reach, 4 - reach : 5 + reach] = False
    assert moved[4, 4]
    assert moved[3, 4] == (reach > 0)
    assert not (moved & outside).any()


def test_shared__has_one_set_of_convolutions_and_norms_for_each_map() -> None:
    def parameters(maps: int, kind: type[nn.Module]) -> int:
        predictors = SharedPredictors([16] * maps, [6] * maps, 4, depth=2)
        return sum(p.numel() for m in predictors.modules() if isinstance(m, kind)
                   for p in m.parameters(recurse=False))  # fmt: skip

    by_hand = 2 * 2 * 9 * 16 * 16 + (9 * 16 + 1) * 6 * (4 + 4)
    assert parameters(3, nn.Conv2d) == parameters(5, nn.Conv2d) == by_hand
    assert parameters(3, nn.BatchNorm2d) == 3 * 2 * 2 * 2 * 16


def test_shared__one_tower_serves_boxes_and_classes() -> None:
    predictors = SharedPredictors([4], [1], 2, depth=1, kernel_size=1, shared_tower=True).eval()
    features = torch.randn(1, 4, 3, 3)
    (deltas, logits), *_ = predictors([features])
    tower = predictors.box_tower[0](features, 0)
    torch.testing.assert_close(deltas, predictors.boxes(tower).flatten(2).mT)
    torch.testing.assert_close(logits, predictors.classes(tower).flatten(2).mT)
    assert sum(p.numel() for p in predictors.parameters()) == 4 * 4 + 2 * 4 + (4 + 1) * (4 + 2)


def test_shared__norms_see_their_own_map() -> None:
    predictors = SharedPredictors([4, 4], [1, 1], 2, depth=1).train()
    predictors([torch.randn(2, 4, 8, 8), torch.zeros(2, 4, 4, 4)])
    norms = predictors.box_tower[0].norms
    assert norms[0].running_var.min() != pytest.approx(0.97)
    assert norms[1].running_var.max().item() == pytest.approx(0.97)  # 0.97 x 1 + 0.03 x 0


def test_shared__depthwise_towers_are_thinner() -> None:
    full, thin = (
        sum(parameter.numel() for parameter in predictors.box_tower.parameters())
        for predictors in (
            SharedPredictors([256], [6], 4),
            SharedPredictors([256], [6], 4, depthwise=True),
        )
    )
    assert full == 4 * (9 * 256 * 256 + 512)
    assert thin == 4 * (9 * 256 + 256 * 256 + 512)


@pytest.mark.parametrize("arguments", [([8, 16], [2, 2]), ([8, 8], [3, 6])])
def test_shared__needs_maps_that_are_alike(arguments) -> None:
    with pytest.raises(ValueError, match="equal channels and boxes"):
        SharedPredictors(*arguments, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_classes", [1, 7])
def test_fresh_scores__of_objects_start_at_one_in_a_hundred(kind, num_classes: int) -> None:
    predictors = kind([8], [2], num_classes + 1)
    for activation in ("softmax", "sigmoid"):
        predictors.initialize(activation)
        (layer,) = predictors.class_layers()
        bias = layer.bias.view(2, -1)
        if activation == "softmax":
            torch.testing.assert_close(bias.softmax(dim=1)[:, 0], torch.tensor([0.99, 0.99]))
        else:
            torch.testing.assert_close(bias[:, 1:].sigmoid(), torch.full((2, num_classes), 0.01))
