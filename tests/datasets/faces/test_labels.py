from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.labels import (
    LANDMARK_COLUMNS,
    as_labels,
    label_counts,
    read_label_table,
    refuse_missing,
    without_missing,
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_as_labels__both_ways_of_writing_no__read_alike() -> None:
    zeros = np.array([[1, 0], [np.nan, 1]])
    minus = np.array([[1, -1], [np.nan, 1]])
    for values in (zeros, minus):
        labels = as_labels(values, Path("t"), ["a", "b"], ["x", "y"])
        assert labels.tolist() == [[1, 0], [-1, 1]]
        assert labels.dtype == np.int8


@pytest.mark.parametrize("value", [2, 0.5, -2, np.inf])
def test_as_labels__another_number__named(value: float) -> None:
    with pytest.raises(DataError, match=r"t\.csv: y of b is .*\(1 such values\)"):
        as_labels(np.array([[1, 0], [0, value]]), Path("t.csv"), ["a", "b"], ["x", "y"])


def test_as_labels__zero_beside_minus_one__refused() -> None:
    with pytest.raises(DataError, match=r"has 0 \(y of a\) and -1"):
        as_labels(np.array([[1, 0], [-1, 1]]), Path("t"), ["a", "b"], ["x", "y"])


def test_label_counts__hand_counted() -> None:
    labels = np.array([[1, 0, -1], [1, -1, -1], [0, 0, -1]], dtype=np.int8)
    assert label_counts(labels).tolist() == [[1, 2], [2, 0], [0, 0]]


def test_read_label_table__csv_with_gaps(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "file,hat,smile\na.jpg,1,\nsub/b.jpg,0,true\nc.jpg,,False\n")
    read = read_label_table(table, tmp_path)
    assert read.attributes == ("hat", "smile")
    assert read.paths == [str(tmp_path / name) for name in ("a.jpg", "sub/b.jpg", "c.jpg")]
    assert read.labels.tolist() == [[1, -1], [0, 1], [-1, 0]]
    assert read.landmarks is None


def test_read_label_table__landmark_columns__are_no_attributes(tmp_path: Path) -> None:
    points = ",".join(str(number) for number in range(10))
    text = f"picture,{','.join(LANDMARK_COLUMNS)},hat\na,{points},1\nb{',' * 10},0\n"
    read = read_label_table(write(tmp_path / "t.csv", text), tmp_path, file_column="picture")
    assert read.attributes == ("hat",)
    assert read.landmarks is not None
    assert read.landmarks[0].tolist() == np.arange(10).reshape(5, 2).tolist()
    assert np.isnan(read.landmarks[1]).all()


def test_read_label_table__parquet__same_as_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"file": ["a", "b"], "hat": [1, None], "smile": [True, False]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    text = "file,hat,smile\na,1,1\nb,,0\n"
    first = read_label_table(tmp_path / "t.parquet", tmp_path)
    second = read_label_table(write(tmp_path / "t.csv", text), tmp_path)
    assert first.attributes == second.attributes
    assert first.labels.tolist() == second.labels.tolist() == [[1, 1], [-1, 0]]


def test_read_label_table__chosen_attributes__in_their_order(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "file,a,note,b\nx,1,seen,0\n")
    assert read_label_table(table, tmp_path, ["b", "a"]).labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,hat\n", "no rows"),
        ("picture,hat\na,1\n", "it lacks file"),
        ("file\na\n", "it lacks attributes"),
        ("file,hat\na,1\na,0\n", "a is there 2 times"),
        ("file,hat\na,1\n,0\n", "row 2 after the heading names no file"),
        ("file,hat\na,1,1\n", "line 2: 3 cells, not 2"),
        ("file,hat\na,yes\n", "column hat: .*'yes'"),
        ("file,hat\na,7\n", "hat of a is 7"),
    ],
)
def test_read_label_table__faulty__named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_label_table(write(tmp_path / "t.csv", text), tmp_path)


def test_read_label_table__no_file_or_no_parquet__named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_label_table(tmp_path / "gone.csv", tmp_path)
    with pytest.raises(DataError, match="not a readable table"):
        read_label_table(write(tmp_path / "t.parquet", "no"), tmp_path)


def test_without_missing__some__left_out_and_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / name).touch()
    source = write(tmp_path / "t.csv", "file,hat\na.jpg,1\nb.jpg,0\nc.jpg,0\n")
    rest, missing = without_missing(read_label_table(source, tmp_path), source)
    assert [Path(path).name for path in rest.paths] == ["a.jpg", "c.jpg"]
    assert rest.labels.tolist() == [[1], [0]]
    with pytest.raises(DataError, match=r"1 images do not exist: .*b\.jpg"):
        refuse_missing(source, missing)


def test_without_missing__all__says_that_the_folder_is_wrong(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", "file,hat\na.jpg,1\n")
    with pytest.raises(DataError, match="none of its 1 images exists"):
        without_missing(read_label_table(source, tmp_path / "elsewhere"), source)
