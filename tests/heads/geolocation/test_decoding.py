import numpy as np
import pytest
import torch

from mobilevision.datasets.geolocation.cells import Partition
from mobilevision.datasets.geolocation.coordinates import CellTable
from mobilevision.datasets.geolocation.geodesy import distance_km, to_latlng_deg, unit_vectors
from mobilevision.heads.geolocation.decoding import Decoder, cell_scores

DEGREE_KM = 111.195


def partition(positions: list, spread_km: float = 0.0) -> Partition:
    """Far cells of level 4 in any order; only mean positions and spreads matter here."""
    count = len(positions)
    tokens = [f"{8 * number + 1:02x}1"[:3] for number in range(count)]
    return Partition(
        CellTable(tokens, np.array(positions, float), np.ones(count, int),
                  np.full(count, spread_km))
    )  # fmt: skip


def test_cell_scores__one_partition__softmax() -> None:
    logits = torch.randn(3, 5)
    assert torch.allclose(cell_scores([logits]), logits.log_softmax(dim=1), atol=1e-6)


def test_cell_scores__several__product_over_the_cells_that_hold_each() -> None:
    coarse, fine = torch.randn(2, 2), torch.randn(2, 3)
    parents = torch.tensor([0, 0, 1])
    found = cell_scores([coarse, fine], [parents]).exp()
    for row in range(2):
        p, q = coarse[row].softmax(0), fine[row].softmax(0)
        product = torch.stack([q[0] * p[0], q[1] * p[0], q[2] * p[1]])
        assert torch.allclose(found[row], product / product.sum(), atol=1e-6)


def test_cell_scores__coarse_partition__overrules_a_close_call() -> None:
    found = cell_scores(
        [torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 0.9]])], [torch.tensor([0, 1])]
    )
    assert found.argmax() == 1


def test_cell__answer__is_the_mean_position_of_its_photos() -> None:
    decoder = Decoder(partition([(10, 20), (-30, 179)]))
    places = decoder(np.array([[0.3, 0.7], [0.6, 0.4]]))
    assert places.latlng_deg == pytest.approx(np.array([(-30, 179), (10, 20)]))
    assert places.cells.tolist() == [1, 0]
    assert places.scores == pytest.approx([0.7, 0.6])


def test_mode__spread_mass_over_neighbors__beats_one_lonely_cell() -> None:
    near = [(0, 0), (0, 0.1), (0.1, 0), (60, 100)]
    decoder = Decoder(partition(near), answer="mode")
    places = decoder(np.array([[0.2, 0.2, 0.2, 0.4]]))
    assert places.cells.tolist() == [3]
    assert distance_km(places.latlng_deg[0], to_latlng_deg(unit_vectors(near[:3]).mean(axis=0))) < 2


def test_radii__points__are_distances_where_the_probability_is_reached() -> None:
    decoder = Decoder(partition([(0, 0), (0, 1), (0, 10)]))
    (radii,) = decoder(np.array([[0.45, 0.3, 0.25]])).radii_km
    assert radii == pytest.approx([DEGREE_KM, 10 * DEGREE_KM], rel=1e-3)


def test_radii__one_wide_cell__hold_its_photos() -> None:
    """The photos of a cell are taken to be spread normally, so their distances are Rayleigh's."""
    decoder = Decoder(partition([(0, 0), (50, 50)], spread_km=100))
    (radii,) = decoder(np.array([[1.0, 0.0]])).radii_km
    distances = 100 / np.sqrt(2) * np.hypot(*np.random.default_rng(0).normal(size=(2, 20000)))
    held = [(distances <= radius).mean() for radius in radii]
    assert held == pytest.approx([0.5, 0.9], abs=0.03)


def test_radii__nothing_but_antipodes__never_more_than_half_the_earth() -> None:
    decoder = Decoder(partition([(0, 0), (0, 180)], spread_km=2000))
    (radii,) = decoder(np.array([[0.51, 0.49]])).radii_km
    assert radii[0] <= radii[1] <= 20016
