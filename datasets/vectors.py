"""Tables of a vector for each file: cached logits, a teacher's embeddings.

The suffix tells the format:

- ``.npz``: an array ``files`` of strings (N,) and an array ``vectors`` (N, D);
- ``.csv``: a heading, then the file and D numbers; if the headings of some begin with
  ``embedding_`` or ``vector_``, those alone;
- ``.parquet``: columns ``file`` and ``embedding`` (or ``vector``), a list of D numbers a row.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import DataError
from .files import check_unique, import_parquet, read_csv, read_npz, replaced_atomically, write_csv

_NUMBERS = ("embedding_", "vector_")
_SUFFIXES = (".npz", ".csv", ".parquet")


class VectorTable(NamedTuple):
    """A vector for each file."""

    files: np.ndarray
    """(N,) str."""
    vectors: np.ndarray
    """(N, D) float32, finite."""


def read_vectors(path: str | Path) -> VectorTable:
    """Read a table.

    Raises:
        DataError: The file does not exist or has another form, or the table has vectors of several
            lengths or with NaN, or a file twice.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; `mobilevision cache-logits` writes such a table")
    try:
        files, vectors = _read(path)
        table = VectorTable(np.asarray(files, dtype=np.str_), np.asarray(vectors, np.float32))
    except DataError:
        raise
    except Exception as error:  # the libraries raise many kinds for a file of another format
        raise DataError(f"{path}: not a table of files and vectors ({error})") from error
    return _checked(path, table)


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        raise DataError(f"{path}: a table of vectors ends in {', '.join(_SUFFIXES)}")


def _checked(path: Path, table: VectorTable) -> VectorTable:
    if table.vectors.ndim != 2 or table.files.ndim != 1 or len(table.files) != len(table.vectors):
        raise DataError(
            f"{path}: {table.files.size} files and vectors of the shape {table.vectors.shape}; "
            "every file needs one vector of the same length"
        )
    finite = np.isfinite(table.vectors).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}: the vector of {table.files[~finite][0]} is not finite")
    check_unique(path, table.files.tolist())
    return table


def _read(path: Path) -> tuple[Any, Any]:
    if path.suffix == ".npz":
        arrays = read_npz(path)
        return arrays["files"], arrays["vectors"]
    if path.suffix == ".csv":
        heading, *rows = read_csv(path)
        named = [at for at, name in enumerate(heading) if name.startswith(_NUMBERS)]
        places = named or range(1, len(heading))
        if any(len(row) != len(heading) for row in rows):
            raise ValueError("rows of different lengths")
        return [row[0] for row in rows], [[float(row[at]) for at in places] for row in rows]
    table = import_parquet(path).read_table(path)
    column = next((name for name in ("embedding", "vector") if name in table.column_names), None)
    if column is None or "file" not in table.column_names:
        raise DataError(f"{path}: has columns {table.column_names}, wanted are file and embedding")
    return table["file"].to_pylist(), np.stack(table[column].to_numpy())


def write_vectors(path: str | Path, table: VectorTable, private: bool = False) -> None:
    """Write a table, atomically, in the format that the suffix names.

    A ``private`` one, such as of embeddings of faces, is its owner's alone.

    Raises:
        DataError: The suffix is another one, or the table could not be read again.
    """
    path = Path(path)
    _check_suffix(path)
    _checked(path, table)
    names = table.files.tolist()
    with replaced_atomically(path, private) as temporary:
        if path.suffix == ".npz":
            np.savez_compressed(temporary, files=table.files, vectors=table.vectors)
        elif path.suffix == ".csv":
            heading = ["file", *range(table.vectors.shape[1])]
            rows = zip(names, table.vectors.tolist(), strict=True)
            write_csv(temporary, heading, ([name, *vector] for name, vector in rows))
        else:
            parquet = import_parquet(path)
            import pyarrow

            columns = {"file": names, "embedding": list(table.vectors)}
            parquet.write_table(pyarrow.table(columns), temporary)
