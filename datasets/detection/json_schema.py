"""From a list of JSON objects to arrays, whole columns at once; the culprits where that fails."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data_errors import FaultKind, Faults

_INTEGER = re.compile(r"\s*[-+]?\d{1,19}\s*")


class Column(NamedTuple):
    """A key that every object needs, and what its values must be."""

    key: str
    convert: Callable[[list[Any]], np.ndarray | None]
    """N values -> (N, ...) array, or None (or an error) where any of them is not of its kind."""
    demand: str
    """What the values must be, for messages."""


def whole_number(value: Any) -> int | None:
    """Return an integer of 64 bits, also where it is written as 1.0 or "1"; None for others."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(2**63) <= value < 2**63 else None


def integers(values: list[Any]) -> np.ndarray | None:
    """(N,) int64; integers, also in the guise that some labeling tools give them (1.0, "1")."""
    if not set(map(type, values)) <= {int}:
        values = [whole_number(value) for value in values]
        if None in values:
            return None
    return np.array(values, dtype=np.int64)


def sides(values: list[Any]) -> np.ndarray | None:
    """(N,) int64, all above zero."""
    array = integers(values)
    return array if array is not None and (array > 0).all() else None


def names(values: list[Any]) -> np.ndarray | None:
    """(N,) str objects, none of them empty."""
    right = set(map(type, values)) <= {str} and all(values)
    return np.array(values, dtype=object) if right else None


def quadruples(values: list[Any]) -> np.ndarray | None:
    """(N, 4) float64; NaN and infinity are let through."""
    if not values:
        return np.zeros((0, 4))
    array = np.array(values)
    if array.dtype.kind == "U" and array.shape == (len(values), 4):
        # Numbers as text, as some labeling tools write them.
        array = np.array([[float(number) for number in box] for box in values])
    right = array.dtype.kind in "if" and array.shape == (len(values), 4)
    return array.astype(np.float64) if right else None


def read_columns(
    file: Path, what: str, entries: list[Any], columns: tuple[Column, ...], faults: Faults
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Read columns, leaving malformed entries out.

    Args:
        file: for messages.
        what: what an entry is, for messages ("image").
        entries: the N parsed objects.
        columns: what to read.
        faults: where malformed entries go.

    Returns:
        The entries that are well formed, and one array for each column.

    Raises:
        DataError: an entry is malformed and ``faults`` raises.
    """
    arrays = [_read(entries, column) for column in columns]
    if any(array is None for array in arrays):
        reasons = [_malformed(entry, columns) for entry in entries]
        faults.add_where(
            FaultKind.MALFORMED,
            np.array([bool(reason) for reason in reasons]),
            lambda row: f"{file}: {_label(what, entries[row], row)} {reasons[row]}",
        )
        entries = [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]
        arrays = [_read(entries, column) for column in columns]
    return entries, [array for array in arrays if array is not None]


def _read(entries: list[Any], column: Column) -> np.ndarray | None:
    try:
        return column.convert([entry[column.key] for entry in entries])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _malformed(entry: Any, columns: tuple[Column, ...]) -> str:
    """What is wrong with an entry; empty where nothing is."""
    if not isinstance(entry, dict):
        return "is not an object"
    for column in columns:
        if column.key not in entry:
            return f'lacks "{column.key}"'
        if _read([entry], column) is None:
            return f'has {entry[column.key]!r} for "{column.key}", which is not {column.demand}'
    return ""


def _label(what: str, entry: Any, row: int) -> str:
    if isinstance(entry, dict) and "id" in entry:
        return f"{what} {entry['id']}"
    return f"{what} number {row + 1} of the list"
