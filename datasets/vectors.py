"""A table of vectors by file: cached logits, embeddings of a teacher.

Three formats, told by the name's end:

- ``.npz``: an array ``files`` of strings (N,) and an array ``vectors`` (N, D);
- ``.csv``: a heading, then the file and D numbers;
- ``.parquet``: columns ``file`` and ``embedding`` (or ``vector``), a list of D numbers a row; needs
  pyarrow, which the extra ``parquet`` brings.
"""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import DataError
from .files import read_npz, replaced_atomically

_LIST_COLUMNS = ("embedding", "vector")


class VectorTable(NamedTuple):
    """A vector for each file."""

    files: np.ndarray
    """(N,) str."""
    vectors: np.ndarray
    """(N, D) float32, finite."""


def read_vectors(path: str | Path) -> VectorTable:
    """Read a table.

    Raises:
        DataError: There is no such file, it has another form, vectors of several lengths or with
            NaN, or a file twice.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(f"{path}: a table of vectors ends in {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; `mobilevision cache-logits` writes such a table")
    try:
        files, vectors = readers[path.suffix](path)
        table = VectorTable(np.asarray(files, dtype=np.str_), np.asarray(vectors, np.float32))
    except DataError:
        raise
    except Exception as error:  # the three libraries raise many kinds for a foreign file
        raise DataError(f"{path}: not a table of files and vectors ({error})") from error
    return _checked(path, table)


def _checked(path: Path, table: VectorTable) -> VectorTable:
    if table.vectors.ndim != 2 or table.files.ndim != 1 or len(table.files) != len(table.vectors):
        raise DataError(
            f"{path}: {table.files.size} files and vectors of the shape {table.vectors.shape}; "
            "every file needs one vector of the same length"
        )
    finite = np.isfinite(table.vectors).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}: the vector of {table.files[~finite][0]} is not finite")
    names, counts = np.unique(table.files, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{path}: {names[counts > 1][0]} is there {counts.max()} times")
    return table


def _read_npz(path: Path) -> tuple[Any, Any]:
    arrays = read_npz(path)
    return arrays["files"], arrays["vectors"]


def _read_csv(path: Path) -> tuple[Any, Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))[1:]
    return [row[0] for row in rows], [[float(cell) for cell in row[1:]] for row in rows]


def _read_parquet(path: Path) -> tuple[Any, Any]:
    table = _parquet(path).read_table(path)
    column = next((name for name in _LIST_COLUMNS if name in table.column_names), None)
    if column is None or "file" not in table.column_names:
        raise DataError(f"{path}: has columns {table.column_names}, wanted are file and embedding")
    return table["file"].to_pylist(), np.stack(table[column].to_numpy())


def write_vectors(path: str | Path, table: VectorTable) -> None:
    """Write a table, atomically, in the format that the name's end says.

    Raises:
        DataError: Another ending, or a table that could not be read again.
    """
    path = Path(path)
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise DataError(f"{path}: a table of vectors ends in {', '.join(writers)}")
    _checked(path, table)
    with replaced_atomically(path) as temporary:
        writers[path.suffix](temporary, table)


def _write_npz(path: Path, table: VectorTable) -> None:
    np.savez_compressed(path, files=table.files, vectors=table.vectors)


def _write_csv(path: Path, table: VectorTable) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(str(index) for index in range(table.vectors.shape[1]))])
    for name, vector in zip(table.files.tolist(), table.vectors, strict=True):
        writer.writerow([name, *(repr(float(value)) for value in vector)])
    path.write_text(text.getvalue(), encoding="utf-8")


def _write_parquet(path: Path, table: VectorTable) -> None:
    parquet = _parquet(path)
    import pyarrow

    columns = {"file": table.files.tolist(), "embedding": list(table.vectors)}
    parquet.write_table(pyarrow.table(columns), path)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow: pip install 'mobilevision[parquet]'"
        ) from error
    return parquet
