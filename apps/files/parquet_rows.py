"""Parquet tables too long for the memory. Free of torch; pyarrow is an extra."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically

_ROWS_IN_GROUP = 4096


class Column(NamedTuple):
    """Some of the numbers of a row."""

    name: str
    width: int | None
    """Length of a list of float32; None for a single number."""
    kind: str = "float32"
    """Type of a single number."""


def check_parquet(path: Path) -> None:
    """See whether a table can be written, before the work for it is done.

    Raises:
        DataError: Another ending, or pyarrow is not installed.
    """
    if path.suffix != ".parquet":
        raise DataError(f"{path}: the table is a Parquet file; give a name that ends in .parquet")
    _pyarrow()


@contextmanager
def parquet_table(
    path: Path, columns: Sequence[Column], metadata: Mapping[str, str]
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Write a table with a column ``file`` and columns of numbers; it appears when it is complete.

    Gives a function that adds the rows (K, N) of one file, where N is the sum of the widths.

    Args:
        path: The file.
        columns: In the order of the numbers.
        metadata: Of the whole table; readers find it in the schema.
    """
    arrow = _pyarrow()
    schema = _schema(arrow, columns, metadata)
    files: list[str] = []
    parts: list[np.ndarray] = []
    with replaced_atomically(path) as temporary:
        writer = arrow.parquet.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=["file"]
        )

        def flush() -> None:
            if files:
                writer.write_table(_table(arrow, schema, columns, files, np.concatenate(parts)))
                files.clear()
                parts.clear()

        def add(file: str, rows: np.ndarray) -> None:
            files.extend([file] * len(rows))
            parts.append(rows)
            if len(files) >= _ROWS_IN_GROUP:
                flush()

        with writer:
            yield add
            flush()


def _schema(arrow: Any, columns: Sequence[Column], metadata: Mapping[str, str]) -> Any:
    fields = [arrow.field("file", arrow.string())]
    for column in columns:
        number = getattr(arrow, column.kind)()
        kind = number if column.width is None else arrow.list_(number, column.width)
        fields.append(arrow.field(column.name, kind))
    return arrow.schema(fields, metadata=dict(metadata))


def _table(
    arrow: Any, schema: Any, columns: Sequence[Column], files: list[str], rows: np.ndarray
) -> Any:
    arrays = [arrow.array(files, arrow.string())]
    start = 0
    for column in columns:
        values = np.ascontiguousarray(rows[:, start : start + (column.width or 1)]).ravel()
        start += column.width or 1
        flat = arrow.array(values.astype(column.kind))
        listed = column.width is not None
        arrays.append(arrow.FixedSizeListArray.from_arrays(flat, column.width) if listed else flat)
    return arrow.table(arrays, schema=schema)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "a Parquet table needs pyarrow: pip install 'mobilevision[parquet]'"
        ) from error
    return pyarrow
