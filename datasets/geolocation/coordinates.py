"""Tables of photos and where they were taken, and of cells of the Earth, as csv or Parquet.

Positions are degrees on WGS 84, latitude first. The columns go by any of the usual names:
``file`` or ``IMG_ID``, ``latitude`` or ``LAT``, ``longitude``, ``LON`` or ``lng``; the tables of
Im2GPS and Im2GPS3k (``IMG_ID,LAT,LON``) are read as they are. Parquet needs pyarrow, which the
extra ``geo`` brings.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files import replaced_atomically

_NAMES = {
    "file": ("file", "img_id", "image", "path"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
}
_CELL_NAMES = {
    "class_label": ("class_label",),
    "hex_id": ("hex_id",),
    "latitude_mean": ("latitude_mean",),
    "longitude_mean": ("longitude_mean",),
}
_CELL_EXTRAS = {"photos": ("photos", "imgs_per_cell"), "spread_km": ("spread_km",)}
_SWAPPED_SHARE = 0.05
"""Fewer odd rows than this are rather mistakes in these rows."""
_FORMATS = (".csv", ".parquet")


class PositionTable(NamedTuple):
    """N photos and where they were taken."""

    name: str
    """What results call the data."""
    files: Sequence[str]
    """N names, each once."""
    latlng_deg: np.ndarray
    """(N, 2) float64: latitude in [-90, 90], longitude in [-180, 180]."""

    def take(self, name: str, rows: np.ndarray) -> "PositionTable":
        """Some of them: positions (M,) int64."""
        files = [str(self.files[int(row)]) for row in rows]
        return PositionTable(name, files, self.latlng_deg[rows])


class CellTable(NamedTuple):
    """C cells of a partition, in the order of their class index."""

    tokens: Sequence[str]
    """S2 tokens (hexadecimal ids without trailing zeros)."""
    latlng_deg: np.ndarray
    """(C, 2) float64, mean position of the photos of each cell."""
    photos: np.ndarray
    """(C,) int64, photos it was made of; 0 where the file does not say it."""
    spread_km: np.ndarray
    """(C,) float64, root mean square distance of those photos from their mean position; NaN where
    the file does not say it."""


def check_positions(latlng_deg: np.ndarray, what: str) -> None:
    """Refuse positions that are not on Earth.

    Args:
        latlng_deg: (N, 2) float64.
        what: where they are from, for messages; rows are counted from 1.

    Raises:
        DataError: a latitude outside [-90, 90], a longitude outside [-180, 180] or no number. The
            message says so where latitude and longitude have changed places.
    """
    latitude, longitude = np.abs(latlng_deg[:, 0]), np.abs(latlng_deg[:, 1])
    good = (latitude <= 90) & (longitude <= 180)  # False for NaN, too
    if good.all():
        return
    row = int(np.flatnonzero(~good)[0])
    count = int((~good).sum())
    shown = f"{what}: row {row + 1} has latitude {latlng_deg[row, 0]:g}, longitude " \
            f"{latlng_deg[row, 1]:g}"  # fmt: skip
    if count >= _SWAPPED_SHARE * len(good) and ((latitude <= 180) & (longitude <= 90)).all():
        raise DataError(
            f"{shown}: latitude and longitude seem to be swapped ({count:,} of {len(good):,} rows "
            "are possible only the other way round, and that way all rows are). Rename the columns."
        )
    raise DataError(
        f"{shown} ({count:,} of {len(good):,} rows are off the Earth): latitude is in [-90, 90], "
        "longitude in [-180, 180], in degrees. Correct or remove these rows."
    )


def read_positions(path: str | Path, name: str | None = None) -> PositionTable:
    """Read a table of photos.

    Args:
        path: a file that ends in .csv or .parquet.
        name: what results call the data; None takes the file's.

    Raises:
        DataError: there is no such table, it lacks a column or has no rows, a file is there twice,
            or a position is not on Earth.
    """
    path = Path(path)
    columns = _read_columns(path, _NAMES, {})
    files = [str(file).strip() for file in columns["file"]]
    latlng_deg = np.stack([_numbers(path, columns, key) for key in ("latitude", "longitude")], 1)
    if not files:
        raise DataError(f"{path}: no rows")
    if "" in files:
        raise DataError(f"{path}: row {files.index('') + 1} names no file")
    if len(set(files)) < len(files):
        seen: set[str] = set()
        twice = next(file for file in files if file in seen or seen.add(file))
        raise DataError(f"{path}: {twice} is there twice; keep one row for each photo")
    check_positions(latlng_deg, str(path))
    return PositionTable(name or path.stem, files, latlng_deg)


def write_positions(path: Path, table: PositionTable) -> None:
    """Write ``file,latitude,longitude``, atomically, in the format that the name's end says.

    Raises:
        DataError: another ending.
    """
    _write_columns(
        path,
        {
            "file": list(table.files),
            "latitude": table.latlng_deg[:, 0].tolist(),
            "longitude": table.latlng_deg[:, 1].tolist(),
        },
    )


def read_cell_table(path: str | Path) -> CellTable:
    """Read a partition: ``class_label, hex_id, latitude_mean, longitude_mean``.

    A column ``photos`` (or ``imgs_per_cell``) and ``spread_km`` are taken where they are there.

    Raises:
        DataError: there is no such table, it lacks a column, class labels are not 0 ... C - 1, or
            a position is not on Earth.
    """
    path = Path(path)
    columns = _read_columns(path, _CELL_NAMES, _CELL_EXTRAS)
    labels = _numbers(path, columns, "class_label")
    if not len(labels):
        raise DataError(f"{path}: no cells")
    order = np.argsort(labels, kind="stable")
    if not np.array_equal(labels[order], np.arange(len(labels))):
        raise DataError(f"{path}: class_label must be 0 to {len(labels) - 1}, each once")
    latlng_deg = np.stack(
        [_numbers(path, columns, key) for key in ("latitude_mean", "longitude_mean")], axis=1
    )
    check_positions(latlng_deg, str(path))
    unknown = np.full(len(labels), np.nan)
    photos = _numbers(path, columns, "photos") if "photos" in columns else unknown
    spread = _numbers(path, columns, "spread_km") if "spread_km" in columns else unknown
    return CellTable(
        [str(columns["hex_id"][row]).strip().lower() for row in order.tolist()],
        latlng_deg[order],
        np.nan_to_num(photos[order]).astype(np.int64),
        spread[order],
    )


def write_cell_table(path: Path, cells: CellTable) -> None:
    """Write a partition atomically.

    A csv gets the four columns that others read; Parquet also ``photos`` and ``spread_km``.

    Raises:
        DataError: the name ends neither in .csv nor in .parquet.
    """
    columns: dict[str, list[Any]] = {
        "class_label": list(range(len(cells.tokens))),
        "hex_id": list(cells.tokens),
        "latitude_mean": cells.latlng_deg[:, 0].tolist(),
        "longitude_mean": cells.latlng_deg[:, 1].tolist(),
    }
    if path.suffix != ".csv":
        columns |= {"photos": cells.photos.tolist(), "spread_km": cells.spread_km.tolist()}
    _write_columns(path, columns)


def _numbers(path: Path, columns: Mapping[str, Sequence[Any]], key: str) -> np.ndarray:
    """(N,) float64; an empty cell of a table is NaN."""
    numbers = np.empty(len(columns[key]))
    for row, value in enumerate(columns[key]):
        try:
            numbers[row] = np.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{path}: row {row + 1} has {value!r} for {key}, a number is wanted"
            ) from None
    return numbers


def _read_columns(
    path: Path, names: Mapping[str, Sequence[str]], extras: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Any]]:
    """Columns by our names; those of ``extras`` may be missing."""
    check_format(path)
    if not path.is_file():
        raise DataError(f"{path}: no such table")
    there, read = (_open_csv if path.suffix == ".csv" else _open_parquet)(path)
    lower = {name.strip().lower(): name for name in reversed(there)}
    found: dict[str, str] = {}
    for ours, theirs in {**names, **extras}.items():
        match = next((lower[each] for each in theirs if each in lower), None)
        if match is not None:
            found[ours] = match
        elif ours in names:
            raise DataError(
                f"{path}: has the columns {', '.join(there)}, wanted is {' or '.join(theirs)}"
            )
    return {ours: read(theirs) for ours, theirs in found.items()}


def _open_csv(path: Path) -> tuple[list[str], Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    if not rows:
        raise DataError(f"{path}: empty; its first line should name the columns")
    width = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(f"{path}: line {number} has {len(row)} columns, the first has {width}")
    header = rows.pop(0)
    return header, lambda name: [row[header.index(name)] for row in rows]


def _open_parquet(path: Path) -> tuple[list[str], Any]:
    try:
        table = _pyarrow(path).read_table(path)
    except DataError:
        raise
    except Exception as error:  # pyarrow raises several kinds for a foreign file
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return table.column_names, lambda name: table[name].to_pylist()


def _write_columns(path: Path, columns: dict[str, list[Any]]) -> None:
    check_format(path)
    with replaced_atomically(path) as temporary:
        if path.suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
            temporary.write_text(text.getvalue(), encoding="utf-8")
        else:
            parquet = _pyarrow(path)
            import pyarrow

            parquet.write_table(pyarrow.table(columns), temporary)


def check_format(path: Path) -> None:
    """Refuse names of tables that end neither in .csv nor in .parquet.

    Raises:
        DataError: another ending.
    """
    if path.suffix not in _FORMATS:
        raise DataError(f"{path}: such a table ends in {' or '.join(_FORMATS)}")


def _pyarrow(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow: pip install 'mobilevision[geo]', or use a csv"
        ) from error
    return parquet
