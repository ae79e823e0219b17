"""Outlines of S2 cells on a map, with the library ``s2geometry``."""

from typing import Any

import numpy as np

from ...datasets.errors import DataError
from .geodesy import to_latlng_deg, unit_vectors

_STRAIGHT_LEVEL = 8
_EDGE_PARTS = 8
_POLE_DEG = 89.999999


def outline(cell_id: int, level: int) -> list[tuple[float, float]]:
    """Corners of a cell as (longitude, latitude), see ``Partition.polygon``.

    Args:
        cell_id: S2 id.
        level: its level.

    Raises:
        DataError: ``s2geometry`` is not installed.
    """
    s2 = _s2geometry()
    cell = s2.S2Cell(s2.S2CellId(cell_id))
    corners = [s2.S2LatLng(cell.GetVertex(corner)) for corner in range(4)]
    ring = np.array([(each.lat().degrees(), each.lng().degrees()) for each in corners])
    # Edges are great circles, which are bent on maps; those of small cells hardly.
    return _unwrapped(_with_points_between(ring, _EDGE_PARTS if level < _STRAIGHT_LEVEL else 1))


def _with_points_between(ring_deg: np.ndarray, parts: int) -> list[tuple[float, float]]:
    """Corners (4, 2) and points on the great circles between them as (longitude, latitude)."""
    corners = unit_vectors(ring_deg)
    share = (np.arange(parts) / parts)[:, None]
    sides = [a * (1 - share) + b * share for a, b in zip(corners, np.roll(corners, -1, 0),
                                                         strict=True)]  # fmt: skip
    points = to_latlng_deg(np.concatenate(sides))
    return [(longitude, latitude) for latitude, longitude in points.tolist()]


def _unwrapped(ring: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Close a ring of (longitude, latitude) without jumps of longitude."""
    start = next(row for row, (_, latitude) in enumerate(ring) if abs(latitude) < _POLE_DEG)
    ring = [*ring[start:], *ring[: start + 1]]
    out = [ring[0]]
    at_pole: float | None = None
    for longitude, latitude in ring[1:]:
        if abs(latitude) >= _POLE_DEG:  # all longitudes at once
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


def _s2geometry() -> Any:
    try:
        import s2geometry
    except ImportError as error:
        raise DataError(
            "outlines of cells need s2geometry: pip install 'mobilevision[geo]'"
        ) from error
    return s2geometry
