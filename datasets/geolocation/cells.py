"""S2 cells for millions of positions at once, in numpy, and adaptive partitions of them.

S2 (s2geometry.io) projects the sphere onto six faces of a cube and numbers the cells of each along
a Hilbert curve; an id is 3 bits of face, 2 bits for each level down to 30 and a closing 1 bit. The
library ``s2geometry`` takes one position at a time; these functions give the same ids, which
``tests/datasets/geolocation/test_s2.py`` compares. Its geometry is used for outlines only.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .coordinates import CellTable, check_positions, read_cell_table, write_cell_table
from .geodesy import EARTH_RADIUS_KM, to_latlng_deg, unit_vectors

MAX_LEVEL = 30
"""Level of the smallest cells, with sides of about a centimeter."""

_ONE = np.uint64(1)
# The Hilbert curve of S2: for each orientation (bit 0: axes swapped, bit 1: inverted), the place on
# the curve of each quadrant (i, j as two bits); and for each place, the change of the orientation.
_POSITION_OF = ((0, 1, 3, 2), (0, 3, 1, 2), (2, 3, 1, 0), (2, 1, 3, 0))
_TURN_AT = (1, 0, 0, 3)
_BITS = 4
_TOKEN = re.compile(r"[0-9a-f]{1,16}", re.IGNORECASE)
_STEPS = 8  # of 4 bits each: 32, of which the first two are zero


@cache
def _steps() -> np.ndarray:
    """Tabulate the curve for 4 bits of i and j at once, as S2 does.

    (1024,) int64: orientation, 4 bits of i, 4 bits of j -> 8 bits of position, orientation.
    """
    table = np.zeros(4 << 2 * _BITS, dtype=np.int64)
    for key in range(len(table)):
        orientation, i, j = key >> 2 * _BITS, (key >> _BITS) & 15, key & 15
        position = 0
        for bit in reversed(range(_BITS)):
            quadrant = ((i >> bit) & 1) << 1 | ((j >> bit) & 1)
            place = _POSITION_OF[orientation][quadrant]
            position = position << 2 | place
            orientation ^= _TURN_AT[place]
        table[key] = position << 2 | orientation
    return table


def leaf_ids(latlng_deg: np.ndarray) -> np.ndarray:
    """Return the ids (N,) uint64 of the smallest cells around positions (N, 2) in degrees."""
    face, u, v = _face_uv(unit_vectors(latlng_deg))
    i, j = _grid(u), _grid(v)
    state = face & 1
    position = np.zeros(len(face), dtype=np.uint64)
    for step in reversed(range(_STEPS)):
        shift = step * _BITS
        key = state << 2 * _BITS | ((i >> shift) & 15) << _BITS | ((j >> shift) & 15)
        found = _steps()[key]
        state = found & 3
        position = position << np.uint64(2 * _BITS) | (found >> 2).astype(np.uint64)
    return face.astype(np.uint64) << np.uint64(61) | position << _ONE | _ONE


def _face_uv(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project vectors to the cube: face 0 to 5, and two coordinates on it in [-1, 1]."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    a, b, c = np.abs(x), np.abs(y), np.abs(z)
    # With equal components the later axis wins, as in S2.
    axis = np.where(a > b, np.where(a > c, 0, 2), np.where(b > c, 1, 2))
    along = np.choose(axis, (x, y, z))
    negative = along < 0
    u = np.choose(axis, (y, -x, -x)) / along
    v = np.choose(axis, (z, z, -y)) / along
    # On the three negative faces the two coordinates are swapped.
    face = (axis + 3 * negative).astype(np.int64)
    return face, np.where(negative, v, u), np.where(negative, u, v)


def _grid(u: np.ndarray) -> np.ndarray:
    """Convert coordinates in [-1, 1] to int64 in [0, 2^30), by S2's quadratic projection.

    It makes cells of a level more equal in area than a linear one would.
    """
    root = 0.5 * np.sqrt(1 + 3 * np.abs(u))
    s = np.where(u >= 0, root, 1 - root)
    size = 1 << MAX_LEVEL
    return np.clip(np.rint(size * s - 0.5), 0, size - 1).astype(np.int64)


def lowest_bits(ids: np.ndarray) -> np.ndarray:
    """Return the closing bit (N,) uint64 of ids (N,), which determines the level."""
    return ids & (~ids + _ONE)


def range_min(ids: np.ndarray) -> np.ndarray:
    """Return the first of the smallest cells in each of the cells (N,)."""
    return ids - (lowest_bits(ids) - _ONE)


def range_max(ids: np.ndarray) -> np.ndarray:
    """Return the last of the smallest cells in each of the cells (N,)."""
    return ids + (lowest_bits(ids) - _ONE)


def levels(ids: np.ndarray) -> np.ndarray:
    """Return the levels (N,) int64, 0 to 30, of cells (N,) uint64."""
    return MAX_LEVEL - np.round(np.log2(lowest_bits(ids).astype(np.float64))).astype(np.int64) // 2


def children(ids: np.ndarray) -> np.ndarray:
    """Return the four children (4 N,) of each of the cells (N,) of levels below 30, in order."""
    quarter = lowest_bits(ids) >> np.uint64(2)
    steps = np.arange(4, dtype=np.uint64) * np.uint64(2)
    first = ids - quarter * np.uint64(3)
    return (first[:, None] + quarter[:, None] * steps).ravel()


def face_ids() -> np.ndarray:
    """Return the six cells (6,) uint64 of level 0."""
    return (np.arange(6, dtype=np.uint64) << np.uint64(61)) | np.uint64(1 << 60)


def to_tokens(ids: np.ndarray) -> list[str]:
    """Return the tokens of cells (N,): sixteen hexadecimal digits without trailing zeros."""
    return [f"{number:016x}".rstrip("0") for number in ids.tolist()]


def from_tokens(tokens: Iterable[str], what: str) -> np.ndarray:
    """Return the ids (N,) uint64 of tokens; ``what`` names their source in messages.

    Raises:
        DataError: One is no token of an S2 cell.
    """
    listed: Sequence[str] = list(tokens)
    numbers = [int(token.ljust(16, "0"), 16) if _TOKEN.fullmatch(token) else 0 for token in listed]
    ids = np.array(numbers, dtype=np.uint64)
    # The closing bit is at an even position, and there are six faces.
    even = lowest_bits(ids) & np.uint64(0x1555555555555555)
    bad = (ids == 0) | (ids >> np.uint64(61) > 5) | (even == 0)
    if bad.any():
        token = listed[int(np.flatnonzero(bad)[0])]
        raise DataError(f"{what}: {token!r} is no token of an S2 cell (hex_id)")
    return ids


_POLE_DEG = 89.999999


def _outline(cell_id: int, level: int) -> list[tuple[float, float]]:
    try:
        import s2geometry as s2
    except ImportError as error:
        raise DataError(
            "outlines of cells need s2geometry: pip install 'mobilevision[geo]'"
        ) from error
    cell: Any = s2.S2Cell(s2.S2CellId(cell_id))
    corners = [s2.S2LatLng(cell.GetVertex(corner)) for corner in range(4)]
    ring = np.array([(each.lat().degrees(), each.lng().degrees()) for each in corners])
    # Edges are great circles, which are curved on maps; those of small cells hardly.
    return _unwrapped(_with_points_between(ring, 8 if level < 8 else 1))


def _with_points_between(ring_deg: np.ndarray, parts: int) -> list[tuple[float, float]]:
    """Return corners (4, 2) and points on the great circles between as (longitude, latitude)."""
    corners = unit_vectors(ring_deg)[:, None]
    share = (np.arange(parts) / parts)[:, None]
    sides = corners * (1 - share) + np.roll(corners, -1, axis=0) * share
    points = to_latlng_deg(sides.reshape(-1, 3))
    return [(longitude, latitude) for latitude, longitude in points.tolist()]


def _unwrapped(ring: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Close a ring of (longitude, latitude) without jumps of longitude."""
    start = next(row for row, (_, latitude) in enumerate(ring) if abs(latitude) < _POLE_DEG)
    ring = [*ring[start:], *ring[: start + 1]]
    out = [ring[0]]
    at_pole: float | None = None
    for longitude, latitude in ring[1:]:
        if abs(latitude) >= _POLE_DEG:  # the pole has all longitudes: run along the map's edge
            at_pole = 90.0 if latitude > 0 else -90.0
            out.append((out[-1][0], at_pole))
            continue
        turned = longitude + 360 * round((out[-1][0] - longitude) / 360)
        if at_pole is not None:
            out.append((turned, at_pole))
            at_pole = None
        out.append((turned, latitude))
    if abs(out[-1][0] - out[0][0]) > 180:  # around a pole
        pole = 90.0 if out[0][1] > 0 else -90.0
        out += [(out[-1][0], pole), (out[0][0], pole), out[0]]
    return out


NO_CELL = -1
"""Class index of a position that no cell covers."""
_SPHERE_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2


@dataclass(frozen=True, eq=False)
class Partition:
    """Cells that do not overlap; the position of a cell is its class index.

    ``name`` is that of the partition in messages.

    Raises:
        DataError: a token is invalid, or two cells overlap.
    """

    table: CellTable
    name: str = "cells"

    def __post_init__(self) -> None:
        order, first, last = self._ranges
        overlap = last[:-1] >= first[1:]
        if overlap.any():
            row = int(np.flatnonzero(overlap)[0])
            one, two = (self.table.tokens[each] for each in order[row : row + 2].tolist())
            raise DataError(f"{self.name}: the cells {one} and {two} overlap")

    def __len__(self) -> int:
        return len(self.table.tokens)

    @cached_property
    def ids(self) -> np.ndarray:
        """(C,) uint64, S2 ids."""
        return from_tokens(self.table.tokens, self.name)

    @cached_property
    def levels(self) -> np.ndarray:
        """(C,) int64, S2 levels: 0 is a sixth of the Earth, each further one a quarter of it."""
        return levels(self.ids)

    @property
    def latlng_deg(self) -> np.ndarray:
        """(C, 2) float64, mean position of each cell's photos, which the cell predicts."""
        return self.table.latlng_deg

    @cached_property
    def spread_km(self) -> np.ndarray:
        """(C,) float64, root mean square distance of a cell's photos from their mean position.

        Where the table does not state it, that of a disc as large as an average cell of the level.
        """
        area_km2 = _SPHERE_KM2 / (6 * 4.0**self.levels)
        disc = np.sqrt(area_km2 / (2 * np.pi))  # a disc of radius r has the spread r / sqrt(2)
        return np.where(np.isnan(self.table.spread_km), disc, self.table.spread_km)

    @cached_property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class indices in the order of S2's curve, and the first and last leaf of each."""
        order = np.argsort(self.ids)
        return order, range_min(self.ids[order]), range_max(self.ids[order])

    def assign(self, latlng_deg: np.ndarray) -> np.ndarray:
        """Return the class index (N,) int64 of positions (N, 2) in degrees, -1 without a cell."""
        return self._holding(leaf_ids(latlng_deg))

    def _holding(self, leaves: np.ndarray) -> np.ndarray:
        # A cell is a range of leaves on the curve, and cells are sorted by its start.
        order, first, last = self._ranges
        row = np.searchsorted(first, leaves, side="right") - 1
        inside = (row >= 0) & (leaves <= last[row])
        return np.where(inside, order[row], NO_CELL)

    def parents_in(self, coarse: "Partition") -> np.ndarray:
        """Return the class index (C,) int64 of each cell's parent in a coarser partition.

        Raises:
            DataError: A cell lies in none of them, or only partly.
        """
        holder = coarse._holding(range_min(self.ids))
        whole = (holder != NO_CELL) & (holder == coarse._holding(range_max(self.ids)))
        if not whole.all():
            token = self.table.tokens[int(np.flatnonzero(~whole)[0])]
            raise DataError(
                f"{self.name}: its cell {token} lies in no cell of {coarse.name} "
                f"({int((~whole).sum())} of its cells do not). Build both from the same photos "
                "with the same least number, and name the coarser one first."
            )
        return holder

    def polygon(self, index: int) -> list[tuple[float, float]]:
        """Return the corners of a cell as (longitude, latitude) in degrees, counter-clockwise.

        Closed as in RFC 7946 (GeoJSON), but a cell across the antimeridian is not cut: its
        longitudes continue beyond 180. A cell around a pole follows the pole's edge of the
        map. It is a DataError if ``s2geometry`` is not installed.
        """
        return _outline(int(self.ids[index]), int(self.levels[index]))

    def write(self, path: Path) -> None:
        """Write the table, see `write_cell_table`."""
        write_cell_table(path, self.table)


class BuildReport(NamedTuple):
    """Counts of `build_partition`."""

    photos: int
    kept: int
    """Photos in cells that were kept."""
    dropped_cells: int
    """Cells with photos, but fewer than ``min_photos``."""
    full_cells: int
    """Cells of the last level that still have more than ``max_photos``."""


def build_partition(
    latlng_deg: np.ndarray,
    max_photos: int = 10_000,
    min_photos: int = 50,
    min_level: int = 0,
    max_level: int = MAX_LEVEL,
    name: str = "cells",
) -> tuple[Partition, BuildReport]:
    """Build the adaptive partition of PlaNet (Weyand et al. 2016, section 3).

    Args:
        latlng_deg: (N, 2) degrees, one row a photo.
        max_photos: cells with more are split.
        min_photos: cells with fewer are dropped.
        min_level: cells of lower levels are always split.
        max_level: cells of this level are never split.
        name: its name in messages.

    Returns:
        The partition, cells in the order of S2's curve, and a report.

    Raises:
        DataError: An option is out of its range, a position is not on Earth, or no cell is left.
    """
    if not 1 <= min_photos <= max_photos:
        raise DataError(
            f"cells of {min_photos:,} (--min) to {max_photos:,} (--max) photos: the least number "
            "must be at least 1, and the most not below it."
        )
    if not 0 <= min_level <= max_level <= MAX_LEVEL:
        raise DataError(
            f"cells of levels {min_level} (--min-level) to {max_level} (--max-level): both must "
            f"be from 0 to {MAX_LEVEL}, and the second not below the first."
        )
    latlng_deg = np.asarray(latlng_deg, np.float64).reshape(-1, 2)
    check_positions(latlng_deg, name)
    leaves = leaf_ids(latlng_deg)
    order = np.argsort(leaves)
    leaves = leaves[order]
    cells, starts, ends, dropped, full = _split(
        leaves, max_photos, min_photos, min_level, max_level
    )
    if not len(cells):
        raise DataError(
            f"{name}: none of the cells has {min_photos} photos, of {len(leaves):,} in all; lower "
            "the least number (--min) or the lowest level (--min-level)."
        )
    table = _table(cells, starts, ends, unit_vectors(latlng_deg)[order])
    report = BuildReport(len(leaves), int((ends - starts).sum()), dropped, full)
    return Partition(table, name), report


def _split(
    leaves: np.ndarray, most: int, least: int, min_level: int, max_level: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Split cells from level 0 on; their photos are slices of the sorted ``leaves`` (N,).

    Returns:
        Cells, starts and ends of their slices, and the numbers of dropped and of full cells.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    dropped = full = 0
    pending = face_ids()
    for level in range(max_level + 1):
        starts = np.searchsorted(leaves, range_min(pending), side="left")
        ends = np.searchsorted(leaves, range_max(pending), side="right")
        counts = ends - starts
        enough = counts >= least
        dropped += int(((counts > 0) & ~enough).sum())
        split = enough & ((counts > most) | (level < min_level)) & (level < max_level)
        final = enough & ~split
        full += int((final & (counts > most)).sum())
        found.append((pending[final], starts[final], ends[final]))
        pending = children(pending[split]) if split.any() else pending[:0]
        if not len(pending):
            break
    cells, starts, ends = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(cells)
    return cells[order], starts[order], ends[order], dropped, full


def _table(
    cells: np.ndarray, starts: np.ndarray, ends: np.ndarray, vectors: np.ndarray
) -> CellTable:
    """Average the photos of each cell; ``vectors`` (N, 3) are in the order of S2's curve."""
    # A row of zeros, so that the end of the last slice is a valid index for reduceat.
    padded = np.concatenate([vectors, np.zeros((1, 3))])
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = ends - starts
    means = np.add.reduceat(padded, edges)[::2] / counts[:, None]
    length = np.linalg.norm(means, axis=1)
    # The mean squared chord from the mean direction is 2 - 2 |mean|.
    spread_km = EARTH_RADIUS_KM * np.sqrt(np.maximum(0.0, 2 - 2 * length))
    return CellTable(to_tokens(cells), to_latlng_deg(means), counts.astype(np.int64), spread_km)


def read_partitions(paths: Sequence[str | Path]) -> tuple[Partition, ...]:
    """Read partitions, coarse before fine.

    Raises:
        DataError: A file is absent or faulty, or the last partition does not refine the others.
    """
    partitions = tuple(Partition(read_cell_table(path), str(path)) for path in paths)
    for coarse in partitions[:-1]:
        partitions[-1].parents_in(coarse)
    return partitions
