"""Write tables that may exceed the memory: Parquet and CSV. No torch."""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import import_parquet, replaced_atomically

T = TypeVar("T")

_ROWS_IN_GROUP = 4096


class Column(NamedTuple):
    """One or more numbers of a row."""

    name: str
    width: int | None
    """Length of a list of float32; None for a single number."""
    kind: str = "float32"
    """Type of a single number."""


def check_table(path: Path, suffixes: Sequence[str] = (".parquet", ".csv")) -> None:
    """Check that a table can be written, before the work for it is done.

    Raises:
        DataError: It has another suffix, or pyarrow is not installed and it is a Parquet file.
    """
    if path.suffix not in suffixes:
        raise DataError(f"{path}: give a name that ends in {' or '.join(suffixes)}")
    if path.suffix == ".parquet":
        _pyarrow(path)


@contextmanager
def row_table(
    path: Path, columns: Sequence[Column], metadata: Mapping[str, str], private: bool = False
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Write a table with a column ``file`` and columns of numbers; it appears when it is complete.

    Yields a function that adds the rows (K, N) of one file, where N is the sum of the widths. In
    CSV, lists have a column for each number (``box_0``, ``box_1``, ...), NaN is an empty cell, and
    there is no place for ``metadata``.

    Args:
        path: The file, ``.parquet`` or ``.csv``.
        columns: In the order of the numbers.
        metadata: Metadata of the whole table, which Parquet stores in the schema.
        private: Whether the table is its owner's alone.
    """
    if path.suffix == ".csv":
        names: list[str] = []
        whole: list[bool] = []
        for column in columns:
            width = column.width or 1
            listed = [f"{column.name}_{index}" for index in range(width)]
            names += [column.name] if column.width is None else listed
            whole += [np.dtype(column.kind).kind in "iu"] * width
        with _csv_rows(path, ["file", *names], private) as write:

            def add(file: str, rows: np.ndarray) -> None:
                for row in rows.tolist():
                    write([file, *map(_cell, row, whole)])

            yield add
        return
    arrow = _pyarrow(path)
    fields = [("file", arrow.string())]
    for column in columns:
        number = getattr(arrow, column.kind)()
        kind = number if column.width is None else arrow.list_(number, column.width)
        fields.append((column.name, kind))
    schema = arrow.schema(fields, metadata=dict(metadata))

    def group(parts: Sequence[tuple[str, np.ndarray]]) -> list[Any]:
        files = [file for file, rows in parts for _ in rows]
        return _arrays(arrow, columns, files, np.concatenate([rows for _, rows in parts]))

    with _parquet_rows(path, schema, group, private, use_dictionary=["file"]) as add_part:
        yield lambda file, rows: add_part((file, rows), len(rows))


def _arrays(arrow: Any, columns: Sequence[Column], files: list[str], rows: np.ndarray) -> list[Any]:
    arrays = [arrow.array(files, arrow.string())]
    start = 0
    for column in columns:
        values = np.ascontiguousarray(rows[:, start : start + (column.width or 1)]).ravel()
        start += column.width or 1
        flat = arrow.array(values.astype(column.kind))
        listed = column.width is not None
        arrays.append(arrow.FixedSizeListArray.from_arrays(flat, column.width) if listed else flat)
    return arrays


def _cell(value: float, whole: bool) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if whole else f"{value:.6g}"


@contextmanager
def text_table(
    path: Path, columns: Mapping[str, type]
) -> Iterator[Callable[[Sequence[str | float]], None]]:
    """Write a table of text and numbers; it appears when it is complete.

    Yields a function that adds a row.

    Args:
        path: The file, ``.parquet`` or ``.csv``.
        columns: Name -> str, int or float.
    """
    if path.suffix == ".csv":
        with _csv_rows(path, columns) as write:
            yield lambda row: write(
                [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
            )
        return
    arrow = _pyarrow(path)
    kinds = {str: arrow.string(), int: arrow.int32(), float: arrow.float32()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])

    def group(rows: Sequence[Sequence[str | float]]) -> list[Any]:
        return [list(column) for column in zip(*rows, strict=True)]

    with _parquet_rows(path, schema, group) as add:
        yield lambda row: add(row, 1)


@contextmanager
def _csv_rows(
    path: Path, heading: Iterable[str], private: bool = False
) -> Iterator[Callable[[Iterable[Any]], Any]]:
    with (
        replaced_atomically(path, private) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        yield writer.writerow


@contextmanager
def _parquet_rows(
    path: Path,
    schema: Any,
    arrays: Callable[[Sequence[T]], list[Any]],
    private: bool = False,
    **options: Any,
) -> Iterator[Callable[[T, int], None]]:
    """Write a table in groups of rows.

    Yields a function that adds some rows and their number; ``arrays`` makes the columns of them.
    """
    arrow = _pyarrow(path)
    parts: list[T] = []
    count = 0
    with (
        replaced_atomically(path, private) as temporary,
        arrow.parquet.ParquetWriter(temporary, schema, compression="zstd", **options) as writer,
    ):

        def flush() -> None:
            nonlocal count
            if count:
                writer.write_table(arrow.table(arrays(parts), schema=schema))
            parts.clear()
            count = 0

        def add(part: T, rows: int) -> None:
            nonlocal count
            parts.append(part)
            count += rows
            if count >= _ROWS_IN_GROUP:
                flush()

        yield add
        flush()


def _pyarrow(path: Path) -> Any:
    import_parquet(path)
    import pyarrow

    return pyarrow
