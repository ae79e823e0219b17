"""The classes of geolocation: cells of the Earth's surface, small where many photos are.

PlaNet's adaptive partition (Weyand et al. 2016, Section 3): begin with the six faces of S2's cube,
part every cell that has more than ``max_photos`` photos into its four children, and drop the cells
that end up with fewer than ``min_photos``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.geolocation.coordinates import (
    CellTable,
    check_positions,
    read_cell_table,
    write_cell_table,
)
from .geodesy import EARTH_RADIUS_KM, to_latlng_deg, unit_vectors
from .outlines import outline
from .s2 import (
    MAX_LEVEL,
    children,
    face_ids,
    from_tokens,
    leaf_ids,
    levels,
    range_max,
    range_min,
    to_tokens,
)

NO_CELL = -1
"""Class index of a place that no cell covers."""
_SPHERE_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2


@dataclass(frozen=True, eq=False)
class Partition:
    """Cells that do not overlap; the position of a cell is its class index.

    Attributes:
        table: what is known of the cells.
        name: what messages call it.

    Raises:
        DataError: a token is none, or two cells overlap.
    """

    table: CellTable
    name: str = "cells"

    def __post_init__(self) -> None:
        overlap = self._last[:-1] >= self._first[1:]
        if overlap.any():
            row = int(np.flatnonzero(overlap)[0])
            one, two = (self.table.tokens[each] for each in self._order[row : row + 2].tolist())
            raise DataError(f"{self.name}: the cells {one} and {two} overlap")

    def __len__(self) -> int:
        """The number of cells."""
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
        """(C, 2) float64, mean position of each cell's photos: what the cell answers."""
        return self.table.latlng_deg

    @cached_property
    def spread_km(self) -> np.ndarray:
        """(C,) float64, root mean square distance of a cell's photos from their mean position.

        Where the table does not say it, that of a disc as large as an average cell of the level.
        """
        area_km2 = _SPHERE_KM2 / (6 * 4.0**self.levels)
        disc = np.sqrt(area_km2 / (2 * np.pi))
        return np.where(np.isnan(self.table.spread_km), disc, self.table.spread_km)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids)

    @cached_property
    def _first(self) -> np.ndarray:
        return range_min(self.ids[self._order])

    @cached_property
    def _last(self) -> np.ndarray:
        return range_max(self.ids[self._order])

    def assign(self, latlng_deg: np.ndarray) -> np.ndarray:
        """Cells of positions.

        Args:
            latlng_deg: (N, 2) degrees.

        Returns:
            (N,) int64 class index, -1 where no cell covers the place.
        """
        return self._holding(leaf_ids(latlng_deg))

    def _holding(self, leaves: np.ndarray) -> np.ndarray:
        row = np.searchsorted(self._first, leaves, side="right") - 1
        inside = (row >= 0) & (leaves <= self._last[row])
        return np.where(inside, self._order[row], NO_CELL)

    def parents_in(self, coarse: "Partition") -> np.ndarray:
        """Which cell of a coarser partition holds each cell: (C,) int64 class index there.

        Raises:
            DataError: one lies in none of them, or only partly.
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
        """Corners of a cell as (longitude, latitude) in degrees, counter-clockwise, closed.

        As RFC 7946 (GeoJSON) wants it, but that a cell across the antimeridian is not cut: its
        longitudes go on beyond 180. A cell around a pole runs along the pole's edge of the map.

        Raises:
            DataError: ``s2geometry`` is not installed.
        """
        return outline(int(self.ids[index]), int(self.levels[index]))

    def write(self, path: Path) -> None:
        """Write it as csv or Parquet, see ``datasets.geolocation.coordinates.write_cell_table``."""
        write_cell_table(path, self.table)


class BuildReport(NamedTuple):
    """What became of the photos."""

    photos: int
    """Photos in the table."""
    kept: int
    """Those in cells that were kept."""
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
    """Build PlaNet's adaptive partition.

    Args:
        latlng_deg: (N, 2) degrees, one row a photo.
        max_photos: cells with more are parted.
        min_photos: cells with fewer are dropped.
        min_level: cells of lower levels are parted whatever they hold.
        max_level: cells of this level are parted no more.
        name: what messages call it.

    Returns:
        The partition, cells in the order of S2's curve, and what was dropped.

    Raises:
        DataError: an option is out of its range, a position is not on Earth, or no cell is left.
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
    """Cells, where their photos begin and end in the sorted ids (N,), dropped and full cells."""
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
    """Mean positions and spreads of cells; ``vectors`` (N, 3) are the photos in S2's order."""
    # A row of zeros, so that an end at the very end is a valid place for reduceat.
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
        DataError: a file is absent or faulty, or a partition does not lie in those before it.
    """
    partitions = tuple(Partition(read_cell_table(path), str(path)) for path in paths)
    for coarse in partitions[:-1]:
        partitions[-1].parents_in(coarse)
    return partitions
