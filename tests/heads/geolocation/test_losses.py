import math

import numpy as np
import pytest
import torch

from mobilevision.datasets.geolocation.geodesy import distance_km, unit_vectors
from mobilevision.heads.geolocation import CellLoss
from mobilevision.heads.geolocation.losses import smoothed_labels

CENTERS = np.array([(0.0, 0.0), (0.0, 1.0), (40.0, 90.0)])


def vectors(positions: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(unit_vectors(positions)).float()


def test_smoothed_labels__as_the_formula_of_pigeon_up_to_a_factor() -> None:
    distances = torch.tensor([[10.0, 85.0, 500.0]])
    own = 10.0  # distance to the center of the photo's own cell
    expected = [math.exp(-(each - own) / 75) for each in (10, 85, 500)]
    found = smoothed_labels(distances, 75)[0]
    assert (found / found[0]).tolist() == pytest.approx(expected, rel=1e-5)
    assert found.sum() == pytest.approx(1)


def test_loss__without_smoothing__cross_entropy_of_covered_photos() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    cells = torch.tensor([2, -1, 0])
    losses = CellLoss()([logits], [cells], vectors(CENTERS), [vectors(CENTERS)])
    expected = -(logits[0].log_softmax(0)[2] + logits[2].log_softmax(0)[0]) / 2
    assert losses["cells"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["cells"].backward()
    assert logits.grad is not None
    assert logits.grad[1].abs().max() == 0


def test_loss__no_photo_in_any_cell__zero_with_a_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = CellLoss()([logits], [torch.tensor([-1, -1])], vectors(CENTERS[:2]), [vectors(CENTERS)])
    assert loss["cells"] == 0
    loss["cells"].backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_loss__smoothed__by_hand_and_also_for_photos_without_a_cell() -> None:
    logits = torch.randn(2, 3)
    photos = np.array([(0.0, 0.4), (10.0, 0.0)])
    losses = CellLoss(65.0)([logits], [torch.tensor([0, -1])], vectors(photos), [vectors(CENTERS)])
    total = 0.0
    for row, photo in enumerate(photos):
        weight = np.exp(-distance_km(photo, CENTERS) / 65)
        weight /= weight.sum()
        total -= float((torch.from_numpy(weight) * logits[row].double().log_softmax(0)).sum())
    assert losses["cells"].item() == pytest.approx(total / 2, rel=1e-3)


def test_loss__several_partitions__one_part_each() -> None:
    logits = [torch.randn(2, 2), torch.randn(2, 3)]
    cells = [torch.tensor([0, 1]), torch.tensor([1, 2])]
    centers = [vectors(CENTERS[:2]), vectors(CENTERS)]
    losses = CellLoss()(logits, cells, vectors(CENTERS[:2]), centers)
    assert list(losses) == ["cells_0", "cells_1"]
    expected = torch.nn.functional.cross_entropy(logits[1], cells[1])
    assert losses["cells_1"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss__tau_not_positive__refused() -> None:
    with pytest.raises(ValueError, match="tau_km=0"):
        CellLoss(0)
