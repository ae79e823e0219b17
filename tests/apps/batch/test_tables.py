from pathlib import Path

import numpy as np
import pytest

from mobilevision.apps.batch.tables import Column, check_table, row_table
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.vectors import read_vectors

COLUMNS = (Column("face", None, "int32"), Column("box", 2), Column("score", None))


def test_row_table__csv__cells_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with row_table(path, COLUMNS, {}) as add:
        add("a,b.jpg", np.array([[0, 1.5, np.nan, 0.123456789]], np.float32))
        add("nobody.jpg", np.zeros((0, 4), np.float32))
        assert not path.exists()
    lines = path.read_text().splitlines()
    assert lines == ["file,face,box_0,box_1,score", '"a,b.jpg",0,1.5,,0.123457']


def test_row_table__csv_of_faces__read_as_vectors_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with row_table(path, (*COLUMNS, Column("embedding", 2)), {}) as add:
        add("a.jpg", np.array([[0, 1.5, 2.5, 0.5, 3, 4]], np.float32))
    table = read_vectors(path)
    assert table.files.tolist() == ["a.jpg"]
    assert table.vectors.tolist() == [[3, 4]]


def test_row_table__parquet__same_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with row_table(tmp_path / "t.parquet", COLUMNS, {"k": "v"}) as add:
        add("a.jpg", np.array([[0, 1.5, 2.5, 0.5]], np.float32))
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.column_names == ["file", "face", "box", "score"]
    assert table["box"].to_pylist() == [[1.5, 2.5]]


def test_row_table__body_raises__old_table_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")
    with pytest.raises(KeyError), row_table(path, COLUMNS, {}):
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_check_table__another_ending__named(tmp_path: Path) -> None:
    check_table(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"ends in \.parquet or \.csv"):
        check_table(tmp_path / "t.xlsx")
