"""Photos in tar shards in WebDataset's format, for datasets of millions of files.

A shard ``photos-000000.tar`` holds for each photo its file, unchanged, and a JSON of the same name
with ``file``, ``latitude`` and ``longitude``; WebDataset reads it, and shards that WebDataset wrote
with such a JSON are read here. An index beside them, ``index.npz``, has the place of each photo, so
that a photo is one read. Thereby the order of training is a function of seed and epoch alone,
whatever the number of workers and processes, and a run can resume in the middle of an epoch
without repeating or missing a photo. So that a disk is still read sequentially, shards are shuffled
first and photos only within a few neighboring shards.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..errors import DataError
from ..files import FileNames, read_npz, replaced_atomically
from .coordinates import PositionTable, check_positions

INDEX_NAME = "index.npz"
_META = ".json"


class ShardIndex(NamedTuple):
    """The places of N photos in their shards."""

    folder: Path
    shards: Sequence[str]
    """Names of the tar files."""
    sizes: np.ndarray
    """Bytes of each shard, to detect another one of the same name."""
    files: np.ndarray
    """(N,) str, the names in the table."""
    latlng_deg: np.ndarray
    """(N, 2) float64."""
    shard: np.ndarray
    """(N,) int64, rising."""
    offset: np.ndarray
    """(N,) int64, position of the photo's bytes in the shard."""
    length: np.ndarray
    """(N,) int64, bytes."""


def write_shards(
    table: PositionTable,
    images: Path,
    out: Path,
    photos_per_shard: int = 5000,
    skip_missing: bool = False,
    progress: bool = True,
) -> tuple[ShardIndex, list[str]]:
    """Write the photos of a table, in its order, as shards with an index.

    Existing shards with the same photos are kept, so an interrupted run continues. The same
    input gives the same bytes. Returns the index, and the files that were left out.

    Args:
        table: the photos.
        images: folder that their names are relative to.
        out: folder for the shards.
        photos_per_shard: at least 1.
        skip_missing: leave out files that are absent or empty.
        progress: show a progress bar on stderr.

    Raises:
        DataError: An option is out of its range, or a file is absent or empty.
    """
    if photos_per_shard < 1:
        raise DataError(f"photos_per_shard={photos_per_shard} must be at least 1")
    kept, missing = [], []
    paths = [Path(each) for each in FileNames(images).locate_all(table.files, images)]
    for row, (file, path) in enumerate(zip(table.files, paths, strict=True)):
        if path.is_file() and path.stat().st_size:
            kept.append(row)
        elif skip_missing:
            missing.append(file)
        else:
            raise DataError(f"{path}: no such file, or an empty one; --skip-missing leaves it out")
    if not kept:
        raise DataError(f"{images}: none of the {len(table.files):,} photos is there")
    shards = {
        f"photos-{number:06d}.tar": kept[start : start + photos_per_shard]
        for number, start in enumerate(range(0, len(kept), photos_per_shard))
    }
    for name, rows in tqdm(shards.items(), unit="shard", disable=not progress):
        _write_shard(out / name, table, paths, rows)
    index = index_shards(out, list(shards))
    write_index(index)
    return index, missing


def _write_shard(
    path: Path, table: PositionTable, paths: Sequence[Path], rows: Sequence[int]
) -> None:
    metas = [
        {"file": table.files[row], "latitude": latitude, "longitude": longitude}
        for row, (latitude, longitude) in zip(rows, table.latlng_deg[rows].tolist(), strict=True)
    ]
    if path.is_file():
        try:
            there = [meta for meta, _ in _entries(path)]
        except DataError:
            there = []
        if there == metas:
            return
    with replaced_atomically(path) as temporary, tarfile.open(temporary, "w") as tar:
        for row, meta in zip(rows, metas, strict=True):
            # A key without dots: WebDataset splits names at the first one.
            key, suffix = f"{row:09d}", Path(table.files[row]).suffix.lower() or ".jpg"
            _add(tar, key + suffix, paths[row].read_bytes())
            _add(tar, key + _META, json.dumps(meta).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _entries(path: Path) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """Yield the JSON of each photo of a shard, and the position and number of its bytes."""
    try:
        with tarfile.open(path, "r:") as tar:
            meta: dict[str, Any] | None = None
            place: tuple[int, int] | None = None
            key = ""
            for member in tar:
                if not member.isfile():
                    continue
                stem = member.name.partition(".")[0]
                if stem != key:
                    key, meta, place = stem, None, None
                if member.name.endswith(_META):
                    content = tar.extractfile(member)
                    assert content is not None
                    meta = dict(json.loads(content.read()))
                else:
                    place = (member.offset_data, member.size)
                if meta is not None and place is not None:
                    yield {"file": key, **meta}, place
                    meta, place = None, None
    except (OSError, tarfile.TarError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable tar shard ({error})") from error


def index_shards(folder: Path, names: Sequence[str] | None = None) -> ShardIndex:
    """Find the places of the photos in the shards of a folder; images are not read.

    Without ``names`` all ``*.tar`` are indexed, sorted.

    Raises:
        DataError: There are none, one cannot be read, or a JSON lacks a position.
    """
    names = sorted(path.name for path in folder.glob("*.tar")) if names is None else list(names)
    files: list[str] = []
    positions: list[tuple[float, float]] = []
    places: list[tuple[int, int, int]] = []
    for number, name in enumerate(names):
        for meta, (offset, length) in _entries(folder / name):
            try:
                positions.append((float(meta["latitude"]), float(meta["longitude"])))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"{folder / name}: the JSON of {meta['file']} has no latitude and longitude"
                ) from error
            files.append(str(meta["file"]))
            places.append((number, offset, length))
    if not files:
        raise DataError(f"{folder}: no shards with photos; `mobilevision data shard` makes them")
    latlng_deg = np.array(positions, dtype=np.float64)
    check_positions(latlng_deg, str(folder))
    columns = np.array(places, dtype=np.int64).T
    sizes = np.array([(folder / name).stat().st_size for name in names], dtype=np.int64)
    return ShardIndex(folder, names, sizes, np.array(files), latlng_deg, *columns)


def write_index(index: ShardIndex) -> None:
    """Write ``index.npz`` beside the shards, atomically."""
    arrays = index._asdict()
    del arrays["folder"]
    with replaced_atomically(index.folder / INDEX_NAME) as temporary:
        np.savez_compressed(temporary, **{**arrays, "shards": np.array(index.shards)})


def read_index(folder: Path) -> ShardIndex:
    """Read ``index.npz``, or index the shards if there is none.

    Raises:
        DataError: The index is broken or of other shards, or there are no shards.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return index_shards(folder)
    try:
        content = read_npz(path)
        index = ShardIndex(folder, **{**content, "shards": content["shards"].tolist()})
        _check_places(index)
    except Exception as error:  # numpy raises many kinds for a foreign file
        raise DataError(f"{path}: not an index of shards ({error}); delete it") from error
    check_positions(index.latlng_deg, str(path))
    for name, size in zip(index.shards, index.sizes.tolist(), strict=True):
        shard = folder / name
        if not shard.is_file() or shard.stat().st_size != size:
            raise DataError(
                f"{shard}: absent, or not as {path} says; fetch it again, or delete the index"
            )
    return index


def _check_places(index: ShardIndex) -> None:
    """Raise a ValueError if the columns do not fit together or point out of the shards."""
    shards, photos = len(index.shards), len(index.files)
    numbers = (index.sizes, index.shard, index.offset, index.length)
    shapes = [(photos, 2), (shards,), *[(photos,)] * 3]
    if [column.shape for column in (index.latlng_deg, *numbers)] != shapes or not photos:
        raise ValueError("its columns are of different lengths, or empty")
    if index.files.dtype.kind != "U" or any(column.dtype != np.int64 for column in numbers):
        raise ValueError("its columns are not names and integers")
    if index.latlng_deg.dtype != np.float64 or not all(isinstance(x, str) for x in index.shards):
        raise ValueError("its columns are not names and positions")
    if (np.diff(index.shard) < 0).any() or index.shard[0] < 0 or index.shard[-1] >= shards:
        raise ValueError("photos are in shards that it does not name")
    rest = index.sizes[index.shard] - index.offset
    if ((index.offset < 0) | (index.length < 0) | (index.length > rest)).any():
        raise ValueError("photos lie outside their shards")
