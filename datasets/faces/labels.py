"""Tables of images and the yes/no labels of their attributes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files import FileNames, check_files, existing_files, open_table

UNKNOWN = -1
"""A label that is not known: it is predicted, neither learned from nor measured."""

LANDMARK_NAMES = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
"""Left and right as seen in the image; the order of `alignment.ARCFACE_TEMPLATE`."""
LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in LANDMARK_NAMES for axis in "xy")
"""Columns of the landmarks in px, as CelebA calls them."""

_NAMED = 5
_TRUTH = {"": np.nan, "nan": np.nan, "none": np.nan, "true": 1.0, "false": 0.0}


class LabelTable(NamedTuple):
    """N images with A labels each."""

    name: str
    """The name of the data in results."""
    attributes: tuple[str, ...]
    """A names."""
    paths: Sequence[str]
    """N names of files, each once."""
    labels: np.ndarray
    """(N, A) int8: 1 yes, 0 no, -1 not known."""
    landmarks: np.ndarray | None = None
    """(N, 5, 2) float32, x and y in px of the file's pixels, in the order of `LANDMARK_NAMES`; NaN
    where they are not known; None if no image has them."""
    identities: np.ndarray | None = None
    """(N,) int64, a number for each person, at least 0; -1 where it is not known; None if no
    image has one."""

    def take(self, name: str, rows: np.ndarray) -> "LabelTable":
        """Return some rows: positions (M,) int64, or a mask (N,) bool."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        columns = (self.labels, self.landmarks, self.identities)
        labels, landmarks, identities = (None if c is None else c[numbers] for c in columns)
        assert labels is not None
        paths = [self.paths[row] for row in numbers.tolist()]
        return LabelTable(name, self.attributes, paths, labels, landmarks, identities)


def label_counts(labels: np.ndarray) -> np.ndarray:
    """Count, from labels (N, A), images that lack and that have each attribute: (A, 2) int64."""
    return np.stack([(labels == 0).sum(axis=0), (labels == 1).sum(axis=0)], axis=1)


def as_labels(
    values: np.ndarray, source: Path, rows: Sequence[str], attributes: Sequence[str]
) -> np.ndarray:
    """Convert numbers (N, A) to labels (N, A) int8 as in `LabelTable`.

    1 is yes; 0, or -1 as CelebA has it, no; NaN not known. ``source``, N ``rows`` and A
    ``attributes`` are names for messages.

    Raises:
        DataError: There is another number, or both 0 and -1, so that "no" is ambiguous.
    """
    strange = ~np.isnan(values) & ~np.isin(values, (-1, 0, 1))
    if strange.any():
        row, column = np.argwhere(strange)[0].tolist()
        raise DataError(
            f"{source}: {attributes[column]} of {rows[row]} is {values[row, column]:g} "
            f"({int(strange.sum()):,} such values). Labels are 1 for yes, 0 or -1 for no, and "
            "empty where they are not known."
        )
    if (values == 0).any() and (values == -1).any():
        row, column = np.argwhere(values == 0)[0].tolist()
        raise DataError(
            f"{source}: has 0 ({attributes[column]} of {rows[row]}) and -1, so that it is not "
            "clear which of them is no. Write 0 for no, and leave empty what is not known."
        )
    return np.where(np.isnan(values), UNKNOWN, values == 1).astype(np.int8)


def read_label_table(
    path: Path,
    root: Path,
    attributes: Sequence[str] | None = None,
    file_column: str = "file",
    name: str | None = None,
) -> LabelTable:
    """Read a table with a column of files and a column for each attribute.

    Labels are read by `as_labels`; ``true`` and ``false`` count as 1 and 0. Columns named as
    `LANDMARK_COLUMNS`, all ten of them, are landmarks.

    Args:
        path: ``.csv`` with a heading, or ``.parquet``, which needs pyarrow (extra ``parquet``).
        root: Folder that the files are relative to.
        attributes: Columns to take, in this order; None takes all others.
        file_column: The column of files.
        name: The name of the data in results; None is the table's.

    Raises:
        DataError: The table cannot be read, lacks a column, has no rows, names a file twice or
            none, or has a value that is no label.
    """
    columns, read = open_table(path)
    has_landmarks = set(LANDMARK_COLUMNS) <= set(columns)
    taken = {file_column, *(LANDMARK_COLUMNS if has_landmarks else ())}
    names = [each for each in columns if each not in taken] if attributes is None else attributes
    absent = [each for each in (file_column, *names) if each not in columns]
    if absent or not names:
        raise DataError(
            f"{path}: has the columns {', '.join(columns)}; it lacks "
            f"{', '.join(absent) or 'attributes: give each a column'}."
        )
    files = [str(each or "").strip() for each in read(file_column)]
    check_files(path, files)
    values = np.array([_numbers(path, each, read(each)) for each in names]).T
    labels = as_labels(values, path, files, names)
    landmarks = None
    if has_landmarks:
        points = [_numbers(path, each, read(each)) for each in LANDMARK_COLUMNS]
        landmarks = np.array(points, dtype=np.float32).T.reshape(-1, len(LANDMARK_NAMES), 2)
    paths = FileNames(root).locate_all(files, path)
    return LabelTable(name or path.stem, tuple(names), paths, labels, landmarks)


def _numbers(path: Path, column: str, cells: Iterable[Any]) -> np.ndarray:
    try:
        return np.array([_number(cell) for cell in cells], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: column {column}: {error}; wanted are numbers") from error


def _number(cell: Any) -> float:
    if cell is None:
        return np.nan
    text = str(cell).strip().lower()
    return _TRUTH[text] if text in _TRUTH else float(text)


def without_missing(table: LabelTable, source: Path) -> tuple[LabelTable, list[str]]:
    """Leave out rows whose file does not exist; return the rest and the missing files.

    It is a `DataError` if none of the files exists.
    """
    kept = existing_files(table.paths)
    missing = [path for path, found in zip(table.paths, kept.tolist(), strict=True) if not found]
    if not kept.any():
        raise DataError(
            f"{source}: none of its {len(table.paths):,} images exists; the first is "
            f"{table.paths[0]}. Correct the folder that they are relative to."
        )
    return (table.take(table.name, kept) if missing else table), missing


def refuse_missing(source: Path, missing: Sequence[str]) -> None:
    """Raise a `DataError` that names the missing files, if there are any."""
    if missing:
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        raise DataError(
            f"{source}: {len(missing):,} images do not exist: "
            f"{', '.join(missing[:_NAMED])}{more}. Put them there, or leave "
            "them out and count them with on_error=skip."
        )
