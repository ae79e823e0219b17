from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import s2geometry as library
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.cells import Partition, build_partition, read_partitions
from mobilevision.datasets.geolocation.coordinates import CellTable
from mobilevision.datasets.geolocation.geodesy import distance_km, to_latlng_deg, unit_vectors

POSITIONS = st.lists(
    st.one_of(
        st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        st.tuples(st.sampled_from([-90.0, 90.0, 89.9999, 0.0, 45.0]), st.floats(-180, 180)),
        st.tuples(st.floats(-90, 90), st.sampled_from([-180.0, 180.0, 179.99999, -179.99999])),
        st.just((10.0, 20.0)),
    ),
    min_size=1,
    max_size=120,
)


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Photos around twenty towns, two of them at the antimeridian and two at the poles."""
    rng = np.random.default_rng(seed)
    towns = rng.normal(size=(20, 3))
    towns[:4] = [(-1, 0.0001, 0.1), (-1, -0.0001, -0.5), (0, 0, 1), (0, 0, -1)]
    towns /= np.linalg.norm(towns, axis=1, keepdims=True)
    spread = 10.0 ** rng.uniform(-5, -1, (count, 1))
    return to_latlng_deg(towns[rng.integers(20, size=count)] + spread * rng.normal(size=(count, 3)))


def slow_partition(latlng_deg: np.ndarray, most: int, least: int, low: int, high: int) -> dict:
    """Token -> photos, by the library and recursion."""
    leaves = [library.S2CellId(library.S2LatLng.FromDegrees(*row)) for row in latlng_deg.tolist()]
    found = {}

    def visit(cells: list, level: int) -> None:
        for token, count in Counter(cell.parent(level).ToToken() for cell in cells).items():
            inside = [cell for cell in cells if cell.parent(level).ToToken() == token]
            if count >= least and (count > most or level < low) and level < high:
                visit(inside, level + 1)
            elif count >= least:
                found[token] = count

    visit(leaves, 0)
    return found


@pytest.mark.parametrize(
    ("most", "least", "low", "high"),
    [(50, 5, 0, 30), (1, 1, 0, 9), (100, 20, 0, 30), (2000, 1, 3, 30), (20, 2, 2, 6)],
)
def test_build__as_the_library_and_recursion(most: int, least: int, low: int, high: int) -> None:
    photos = clustered(600)
    partition, report = build_partition(photos, most, least, low, high)
    expected = slow_partition(photos, most, least, low, high)
    assert (
        dict(zip(partition.table.tokens, partition.table.photos.tolist(), strict=True)) == expected
    )
    assert report.photos == 600
    assert report.kept == sum(expected.values())
    assert report.full_cells == sum(count > most for count in expected.values())


@settings(deadline=None, max_examples=60)
@given(POSITIONS, st.integers(1, 12), st.integers(0, 12), st.integers(0, 3), st.integers(3, 30))
def test_build__any_positions__each_kept_photo_in_exactly_one_cell(
    positions: list, least: int, more: int, low: int, high: int
) -> None:
    photos = np.array(positions)
    try:
        partition, report = build_partition(photos, least + more, least, low, high)
    except DataError as error:
        assert "none of the cells" in str(error)  # noqa: PT017
        return
    union = [library.S2CellId(int(each)) for each in partition.ids]
    holders = [
        [index for index, cell in enumerate(union)
         if cell.contains(library.S2CellId(library.S2LatLng.FromDegrees(*row)))]
        for row in photos.tolist()
    ]  # fmt: skip
    assert max(map(len, holders)) <= 1, "cells overlap"
    assigned = partition.assign(photos)
    assert assigned.tolist() == [each[0] if each else -1 for each in holders]
    counts = np.bincount(assigned[assigned >= 0], minlength=len(partition))
    assert counts.tolist() == partition.table.photos.tolist()
    assert counts.min() >= least
    assert report.kept == counts.sum()
    assert ((counts <= least + more) | (partition.levels == high)).all()
    assert (partition.levels >= low).all()


def test_build__answers__are_mean_positions_with_their_spread() -> None:
    photos = clustered(500)
    partition, _ = build_partition(photos, 40, 3)
    cells = partition.assign(photos)
    for index in range(len(partition)):
        inside = photos[cells == index]
        mean = to_latlng_deg(unit_vectors(inside).mean(axis=0))
        assert distance_km(mean, partition.latlng_deg[index]) < 1e-6
        chord_km = distance_km(inside, mean)
        expected = np.sqrt((chord_km**2).mean())
        assert partition.spread_km[index] == pytest.approx(expected, rel=0.05, abs=1e-3)


def test_build__all_photos_in_one_place__stops_at_the_last_level() -> None:
    partition, report = build_partition(np.full((30, 2), 12.0), 10, 5, max_level=15)
    assert partition.levels.tolist() == [15]
    assert report.full_cells == 1


def test_build__no_cell_left__says_so() -> None:
    with pytest.raises(DataError, match="none of the cells has 50 photos, of 3 in all"):
        build_partition(np.zeros((3, 2)), 100, 50)
    with pytest.raises(DataError, match="none of the cells"):
        build_partition(np.zeros((0, 2)), 100, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_photos": 1, "min_photos": 2}, r"cells of 2 \(--min\) to 1 \(--max\) photos"),
     ({"min_photos": 0}, "at least 1"),
     ({"min_level": 5, "max_level": 4}, "levels 5 .* to 4"), ({"max_level": 31}, "from 0 to 30")],
)  # fmt: skip
def test_build__option_out_of_range__says_which(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_partition(np.zeros((3, 2)), **options)


def test_build__swapped__says_so() -> None:
    with pytest.raises(DataError, match="swapped"):
        build_partition(np.array([(120.0, 40.0), (-100.0, 30.0)]), 2, 1)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_write__and_read__same_cells(tmp_path: Path, suffix: str) -> None:
    partition, _ = build_partition(clustered(400), 40, 3)
    path = tmp_path / f"cells.{suffix}"
    partition.write(path)
    (back,) = read_partitions([path])
    assert back.ids.tolist() == partition.ids.tolist()
    assert back.latlng_deg == pytest.approx(partition.latlng_deg, abs=1e-9)
    if suffix == "csv":
        first = path.read_text().splitlines()[0]
        assert first == "class_label,hex_id,latitude_mean,longitude_mean"
        assert np.isnan(back.table.spread_km).all()
        assert (back.spread_km > 0).all()
    else:
        assert back.table.photos.tolist() == partition.table.photos.tolist()
        assert back.spread_km == pytest.approx(partition.spread_km)


def test_read__others_table_in_another_order__class_labels_count(tmp_path: Path) -> None:
    path = tmp_path / "cells_50_5000.csv"
    path.write_text(
        "class_label,hex_id,imgs_per_cell,latitude_mean,longitude_mean\n"
        "1,89c25,77,40.7,-74.0\n0,47e67,51,48.8,2.3\n"
    )
    (partition,) = read_partitions([path])
    assert partition.table.tokens == ["47e67", "89c25"]
    assert partition.table.photos.tolist() == [51, 77]
    assert partition.assign(np.array([(40.71, -74.0), (48.85, 2.35), (0, 0)])).tolist() == [
        1,
        0,
        -1,
    ]


def test_partition__overlap__names_both() -> None:
    table = CellTable(["89c25", "89c24"], np.zeros((2, 2)), np.zeros(2, int), np.zeros(2))
    with pytest.raises(DataError, match=r"89c24 and 89c25 overlap|89c25 and 89c24 overlap"):
        Partition(table)


def test_parents__of_nested_partitions__hold_their_cells() -> None:
    photos = clustered(2000)
    coarse, _ = build_partition(photos, 300, 10)
    fine, _ = build_partition(photos, 30, 10)
    parents = fine.parents_in(coarse)
    cells = [library.S2CellId(int(each)) for each in coarse.ids]
    for child, parent in zip(fine.ids.tolist(), parents.tolist(), strict=True):
        assert cells[parent].contains(library.S2CellId(child))
    with pytest.raises(DataError, match="lies in no cell of"):
        coarse.parents_in(fine)


def test_polygon__every_cell__holds_its_center_and_closes() -> None:
    from matplotlib.path import Path as Outline

    partition, _ = build_partition(clustered(3000), 60, 1)
    crossing = 0
    for index, number in enumerate(partition.ids.tolist()):
        ring = partition.polygon(index)
        assert ring[0] == pytest.approx(ring[-1])
        centre = library.S2CellId(number).ToLatLng()
        latitude, longitude = centre.lat().degrees(), centre.lng().degrees()
        inside = [Outline(ring).contains_point((longitude + turn, latitude), radius=1e-9)
                  or Outline(ring).contains_point((longitude + turn, latitude), radius=-1e-9)
                  for turn in (-360, 0, 360)]  # fmt: skip
        assert any(inside), partition.table.tokens[index]
        crossing += max(abs(each[0]) for each in ring) > 180
    assert crossing, "no cell crosses the antimeridian here: the test proves too little"


def test_polygon__face_around_a_pole__runs_along_the_edge_of_the_map() -> None:
    table = CellTable(["5"], np.array([(90.0, 0.0)]), np.ones(1, int), np.ones(1))
    ring = Partition(table).polygon(0)
    assert max(latitude for _, latitude in ring) == 90
    assert max(x for x, _ in ring) - min(x for x, _ in ring) == pytest.approx(360)
