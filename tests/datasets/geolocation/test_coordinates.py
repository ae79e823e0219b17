from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.coordinates import (
    PositionTable,
    check_positions,
    read_cell_table,
    read_positions,
    write_positions,
)


def written(folder: Path, text: str, name: str = "photos.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "header",
    ["file,latitude,longitude", "IMG_ID,LAT,LON", "image,lat,lng", "File, Latitude ,LONGITUDE",
     "\ufefffile,latitude,longitude"],
)  # fmt: skip
def test_read__usual_names_of_columns__same_table(tmp_path: Path, header: str) -> None:
    table = read_positions(written(tmp_path, f"{header}\na.jpg,10.5,-20\nb/c.jpg,-90,180\n"))
    assert table.files == ["a.jpg", "b/c.jpg"]
    assert table.latlng_deg.tolist() == [[10.5, -20], [-90, 180]]
    assert table.name == "photos"


def test_read__table_of_im2gps3k__extra_columns_are_ignored(tmp_path: Path) -> None:
    text = (
        "IMG_ID,AUTHOR,LAT,LON,S3_Label\n"
        "1034_d2b@N00.jpg,x,48.86,2.29,1\n"
        "7_9@N01.jpg,y,-33.9,151.2,0\n"
    )
    table = read_positions(written(tmp_path, text, "im2gps3k_places365.csv"))
    assert table.files == ["1034_d2b@N00.jpg", "7_9@N01.jpg"]
    assert table.latlng_deg.tolist() == [[48.86, 2.29], [-33.9, 151.2]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_write__and_read__same(tmp_path: Path, suffix: str) -> None:
    positions = np.random.default_rng(0).uniform(-90, 90, (20, 2))
    table = PositionTable("x", [f"ü {number}.jpg" for number in range(20)], positions)
    path = tmp_path / f"t{suffix}"
    write_positions(path, table)
    back = read_positions(path)
    assert list(back.files) == table.files
    assert np.array_equal(back.latlng_deg, positions)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1,2\nb,91,100", "row 2 has latitude 91, longitude 100 .1 of 2 rows"),
        ("a,0,181", "longitude in"),
        ("a,,3", "row 1 has latitude nan"),
        ("a,nan,3", "row 1 has latitude nan"),
        ("a,inf,3", "row 1 has latitude inf"),
        ("a,north,3", "row 1 has 'north' for latitude"),
        ("a,1,2\na,3,4", "a is there 2 times"),
        (",1,2", "row 1 after the heading names no file"),
        ("", "no rows"),
        ("a,1", "line 2: 2 cells, not 3"),
    ],
)
def test_read__bad_row__says_which(tmp_path: Path, rows: str, message: str) -> None:
    path = written(tmp_path, f"file,latitude,longitude\n{rows}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_positions(path)
    assert str(path) in str(caught.value)


def test_read__latitude_and_longitude_swapped__says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "file,latitude,longitude\na,-74.0,40.7\nb,151.2,-33.9\n")
    with pytest.raises(DataError, match=r"seem to be swapped \(1 of 2 rows"):
        read_positions(path)


def test_check__one_odd_row_of_many__is_not_called_swapped() -> None:
    rows = np.tile((50.0, 10.0), (99, 1))
    with pytest.raises(DataError, match="row 100 has latitude 91") as caught:
        check_positions(np.concatenate([rows, [(91.0, 10.0)]]), "here")
    assert "swapped" not in str(caught.value)


def test_check__out_of_range_both_ways__is_not_called_swapped() -> None:
    with pytest.raises(DataError) as caught:
        check_positions(np.array([(120.0, 100.0), (1.0, 2.0)]), "here")
    assert "swapped" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "ends in .csv or .parquet"),
        ("a.csv", "", "empty"),
        ("a.csv", "file,lat\nx,1\n", "wanted is longitude or lon or lng"),
        ("a.parquet", "no parquet", "not a readable table in Parquet"),
    ],
)
def test_read__no_such_table__says_what_is_wanted(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_positions(written(tmp_path, text, name))


def test_read__absent__says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_positions(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [("0,a,1,2\n2,b,1,2", "0 to 1, each once"), ("", "no cells"), ("0,a,95,2", "latitude 95")],
)
def test_read_cells__bad__says_what(tmp_path: Path, rows: str, message: str) -> None:
    path = written(tmp_path, f"class_label,hex_id,latitude_mean,longitude_mean\n{rows}\n")
    with pytest.raises(DataError, match=message):
        read_cell_table(path)
