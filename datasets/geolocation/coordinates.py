"""Tables of photos and where they were taken, and of cells of the Earth, as csv or Parquet.

Positions are degrees on WGS 84, latitude first. The columns go by any of the usual names:
``file`` or ``IMG_ID``, ``latitude`` or ``LAT``, ``longitude``, ``LON`` or ``lng``; the tables of
Im2GPS and Im2GPS3k (``IMG_ID,LAT,LON``) are read as they are. Parquet needs pyarrow, which the
extra ``geo`` brings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files import check_files, import_parquet, open_table, replaced_atomically, write_csv

_NAMES = {
    "file": ("file", "img_id", "image", "path"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
}
_CELL_NAMES = {
    name: (name,) for name in ("class_label", "hex_id", "latitude_mean", "longitude_mean")
}
_CELL_EXTRAS = {"photos": ("photos", "imgs_per_cell"), "spread_km": ("spread_km",)}
_SWAPPED_SHARE = 0.05
"""A smaller share of rows off the Earth are mistakes in these rows, not swapped columns."""
_FORMATS = (".csv", ".parquet")


class PositionTable(NamedTuple):
    """N photos and where they were taken."""

    name: str
    """The name of the data in results."""
    files: Sequence[str]
    """N names, each once."""
    latlng_deg: np.ndarray
    """(N, 2) float64: latitude in [-90, 90], longitude in [-180, 180]."""


class CellTable(NamedTuple):
    """C cells of a partition, in the order of their class index."""

    tokens: Sequence[str]
    """S2 tokens (hexadecimal ids without trailing zeros)."""
    latlng_deg: np.ndarray
    """(C, 2) float64, mean position of the photos of each cell."""
    photos: np.ndarray
    """(C,) int64, number of photos it was made of; 0 where the file does not state it."""
    spread_km: np.ndarray
    """(C,) float64, root mean square distance of those photos from their mean position; NaN where
    the file does not state it."""


def check_positions(latlng_deg: np.ndarray, what: str) -> None:
    """Check that positions (N, 2) float64 are on Earth; ``what`` names their source in messages.

    Raises:
        DataError: A latitude is outside [-90, 90], a longitude outside [-180, 180], or one is NaN.
            The message points out columns that seem to be swapped.
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
    """Read a table of photos, .csv or .parquet; its data is called ``name`` or as the file.

    Raises:
        DataError: The table does not exist, lacks a column or has no rows, names a file twice, or
            a position is not on Earth.
    """
    path = Path(path)
    columns = _read_columns(path, _NAMES, {})
    files = [str(file).strip() for file in columns["file"]]
    latlng_deg = np.stack([_numbers(path, columns, key) for key in ("latitude", "longitude")], 1)
    check_files(path, files)
    check_positions(latlng_deg, str(path))
    return PositionTable(name or path.stem, files, latlng_deg)


def write_positions(path: Path, table: PositionTable) -> None:
    """Write ``file,latitude,longitude``, atomically, as .csv or .parquet (else a `DataError`)."""
    latitude, longitude = table.latlng_deg.T.tolist()
    columns = {"file": list(table.files), "latitude": latitude, "longitude": longitude}
    _write_columns(path, columns)


def read_cell_table(path: str | Path) -> CellTable:
    """Read a partition: ``class_label, hex_id, latitude_mean, longitude_mean``.

    The columns ``photos`` (or ``imgs_per_cell``) and ``spread_km`` are optional.

    Raises:
        DataError: The table does not exist or lacks a column, class labels are not 0 ... C - 1, or
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
    """Write a partition atomically, as .csv or .parquet (else a `DataError`).

    A csv gets the four columns that other tools read; Parquet also ``photos`` and
    ``spread_km``.
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
    """Return a column as (N,) float64; an empty cell is NaN."""
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
    """Read the columns under the keys of ``names``; those of ``extras`` may be missing."""
    check_format(path)
    there, read = open_table(path)
    lower = {name.strip().lower(): name for name in reversed(there)}
    columns: dict[str, Sequence[Any]] = {}
    for key, usual in {**names, **extras}.items():
        match = next((lower[each] for each in usual if each in lower), None)
        if match is not None:
            columns[key] = read(match)
        elif key in names:
            raise DataError(
                f"{path}: has the columns {', '.join(there)}, wanted is {' or '.join(usual)}"
            )
    return columns


def _write_columns(path: Path, columns: dict[str, list[Any]]) -> None:
    check_format(path)
    with replaced_atomically(path) as temporary:
        if path.suffix == ".csv":
            write_csv(temporary, columns, zip(*columns.values(), strict=True))
        else:
            parquet = import_parquet(path)
            import pyarrow

            parquet.write_table(pyarrow.table(columns), temporary)


def check_format(path: Path) -> None:
    """Raise a `DataError` unless the name of a table ends in .csv or .parquet."""
    if path.suffix not in _FORMATS:
        raise DataError(f"{path}: such a table ends in {' or '.join(_FORMATS)}")
