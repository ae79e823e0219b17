"""Write tables and lists that are too long for the memory: Parquet, CSV and JSON. Free of torch."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically

AddRows = Callable[[str, np.ndarray], None]
"""Adds the rows (K, N) of one file, where N is the sum of the columns' widths."""
_ROWS_IN_GROUP = 4096


class Column(NamedTuple):
    """Some of the numbers of a row."""

    name: str
    width: int | None
    """Length of a list of float32; None for a single number."""
    kind: str = "float32"
    """Type of a single number."""


def check_table(path: Path) -> None:
    """See whether a table can be written, before the work for it is done.

    Raises:
        DataError: Another ending, or pyarrow is not installed and the table is a Parquet file.
    """
    if path.suffix == ".parquet":
        check_parquet(path)
    elif path.suffix != ".csv":
        raise DataError(f"{path}: give a name that ends in .parquet or .csv")


def row_table(
    path: Path, columns: Sequence[Column], metadata: Mapping[str, str]
) -> AbstractContextManager[AddRows]:
    """Write a table with a column ``file`` and columns of numbers; it appears when it is complete.

    In CSV, lists have a column for each number (``box_0``, ``box_1``, ...), NaN is an empty cell,
    and there is no place for ``metadata``.

    Args:
        path: The file, ``.parquet`` or ``.csv``.
        columns: In the order of the numbers.
        metadata: Of the whole table.
    """
    if path.suffix == ".csv":
        return _csv_table(path, columns)
    return parquet_table(path, columns, metadata)


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


@contextmanager
def _csv_table(path: Path, columns: Sequence[Column]) -> Iterator[AddRows]:
    names: list[str] = []
    whole: list[bool] = []
    for column in columns:
        width = column.width or 1
        listed = [f"{column.name}_{index}" for index in range(width)]
        names += [column.name] if column.width is None else listed
        whole += [np.dtype(column.kind).kind in "iu"] * width
    with (
        replaced_atomically(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", *names])

        def add(name: str, rows: np.ndarray) -> None:
            for row in rows.tolist():
                writer.writerow([name, *map(_cell, row, whole)])

        yield add


def _cell(value: float, whole: bool) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if whole else f"{value:.6g}"


@contextmanager
def text_table(
    path: Path, columns: Mapping[str, type]
) -> Iterator[Callable[[Sequence[str | float]], None]]:
    """Write a table of text and numbers row by row; it appears when it is complete.

    Gives a function that adds a row.

    Args:
        path: The file, ``.parquet`` or ``.csv``.
        columns: Name -> str, int or float.
    """
    with replaced_atomically(path) as temporary:
        if path.suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                yield lambda row: writer.writerow(
                    [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
                )
            return
        arrow = _pyarrow()
        kinds = {str: arrow.string(), int: arrow.int32(), float: arrow.float32()}
        schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        rows: list[Sequence[str | float]] = []
        with arrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as parquet:

            def flush() -> None:
                arrays = [list(column) for column in zip(*rows, strict=True)]
                if rows:
                    parquet.write_table(arrow.table(arrays, schema=schema))
                rows.clear()

            def add(row: Sequence[str | float]) -> None:
                rows.append(row)
                if len(rows) >= _ROWS_IN_GROUP:
                    flush()

            yield add
            flush()
