import numpy as np
import pytest
import torch
from geographiclib.geodesic import Geodesic
from hypothesis import given
from hypothesis import strategies as st

from mobilevision.datasets.geolocation.geodesy import (
    ANTIPODE_KM,
    EARTH_RADIUS_KM,
    distance_km,
    pairwise_km,
    to_latlng_deg,
    unit_vectors,
)

SPHERE = Geodesic(EARTH_RADIUS_KM * 1000, 0)
POSITION = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(POSITION, POSITION)
def test_distance__any_two_positions__as_geographiclib(first, second) -> None:
    expected = SPHERE.Inverse(*first, *second)["s12"] / 1000
    assert distance_km(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0), (0, 0), 0),
        ((90, 0), (-90, 77), ANTIPODE_KM),
        ((0, 0), (0, 180), ANTIPODE_KM),
        ((0, 179.5), (0, -179.5), ANTIPODE_KM / 180),
        ((48.8583, 2.2945), (40.6892, -74.0445), 5837.4),  # Eiffel Tower, Statue of Liberty
    ],
)
def test_distance__known_pairs(first, second, expected: float) -> None:
    assert distance_km(np.array(first), np.array(second)) == pytest.approx(expected, abs=0.1)


def test_distance__a_metre__is_exact() -> None:
    north = 0.001 / EARTH_RADIUS_KM * 180 / np.pi
    assert distance_km(np.array((51.0, 7.0)), np.array((51 + north, 7.0))) == pytest.approx(
        0.001, rel=1e-6
    )


def test_distance__ellipsoid__differs_by_less_than_a_hundredth() -> None:
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.uniform(-90, 90, (50, 2)), rng.uniform(-180, 180, (50, 2))], axis=-1)
    for first, second in pairs:
        real = Geodesic.WGS84.Inverse(*first, *second)["s12"] / 1000
        assert distance_km(first, second) == pytest.approx(real, rel=0.0065)


@given(POSITION)
def test_unit_vectors__and_back__same_place(position) -> None:
    back = to_latlng_deg(unit_vectors(np.array(position)))
    assert distance_km(np.array(position), back) < 1e-6


def test_pairwise__torch__as_numpy_to_a_metre() -> None:
    rng = np.random.default_rng(1)
    first = np.stack([rng.uniform(-90, 90, 40), rng.uniform(-180, 180, 40)], axis=1)
    near = first[:5] + rng.normal(0, 1e-4, (5, 2))
    second = np.concatenate([near, -first[:5] + (0, 180)])
    ours = pairwise_km(
        torch.from_numpy(unit_vectors(first)), torch.from_numpy(unit_vectors(second))
    )
    exact = distance_km(first[:, None], second[None])
    assert ours.dtype == torch.float32
    close = exact < 10_000
    assert np.abs(ours.numpy() - exact)[close].max() < 5e-3
    assert np.abs(ours.numpy() - exact).max() < 10  # the chord is flat at the antipode
