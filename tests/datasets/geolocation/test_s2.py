"""The ids against the library, one by one."""

import numpy as np
import pytest
import s2geometry as library

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation import cells as s2
from mobilevision.datasets.geolocation.geodesy import to_latlng_deg


def library_ids(latlng_deg: np.ndarray) -> np.ndarray:
    cells = (library.S2CellId(library.S2LatLng.FromDegrees(*row)) for row in latlng_deg.tolist())
    return np.array([cell.id() for cell in cells], dtype=np.uint64)


def random_positions(count: int) -> np.ndarray:
    return to_latlng_deg(np.random.default_rng(0).normal(size=(count, 3)))


def test_leaf_ids__random_positions__as_the_library() -> None:
    positions = random_positions(5000)
    assert np.array_equal(s2.leaf_ids(positions), library_ids(positions))


@pytest.mark.parametrize("latitude", [-90, -60, -45, -1e-9, 0, 1e-9, 35.264389682754654, 45, 90])
def test_leaf_ids__edges_of_faces_poles_and_antimeridian__as_the_library(latitude: float) -> None:
    longitudes = [-180, -179.999999, -135, -90, -45, -0.0, 0, 45, 89.999, 90, 135, 180]
    positions = np.array([(latitude, longitude) for longitude in longitudes], float)
    assert np.array_equal(s2.leaf_ids(positions), library_ids(positions))


@pytest.mark.parametrize("level", [0, 1, 7, 16, 29, 30])
def test_levels_ranges_and_tokens__as_the_library(level: int) -> None:
    cells = [
        library.S2CellId(int(each)).parent(level) for each in library_ids(random_positions(50))
    ]
    ids = np.array([cell.id() for cell in cells], dtype=np.uint64)
    assert s2.levels(ids).tolist() == [level] * 50
    assert s2.range_min(ids).tolist() == [cell.range_min().id() for cell in cells]
    assert s2.range_max(ids).tolist() == [cell.range_max().id() for cell in cells]
    assert s2.to_tokens(ids) == [cell.ToToken() for cell in cells]
    assert np.array_equal(s2.from_tokens(s2.to_tokens(ids), "here"), ids)
    if level < 30:
        expected = [cell.child(number).id() for cell in cells for number in range(4)]
        assert s2.children(ids).tolist() == expected


def test_face_ids__as_the_library() -> None:
    faces = [library.S2CellId.FromFacePosLevel(face, 0, 0).id() for face in range(6)]
    assert s2.face_ids().tolist() == faces


@pytest.mark.parametrize(
    "token", ["", "x1", "0", "c", "d0000000000000000", "2", "f", "89c25a2"[:0]]
)
def test_from_tokens__no_cell__says_which(token: str) -> None:
    with pytest.raises(DataError, match=r"cells\.csv: '.*' is no token"):
        s2.from_tokens(["89c25", token], "cells.csv")
