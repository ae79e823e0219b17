"""Tables of files and numbers, too long for the memory, as Parquet or CSV. Free of torch."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from .parquet_rows import Column, check_parquet, parquet_table

AddRows = Callable[[str, np.ndarray], None]
"""Adds the rows (K, N) of one file, where N is the sum of the columns' widths."""


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
