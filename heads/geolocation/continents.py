"""Continents of positions, by hand-drawn outlines that cover all of the Earth.

Made for tables of measures, not for politics: borders run along the Ural and the Caucasus, the
Bosphorus, Suez, Panama, the Bering Strait and west of New Guinea, and through the middle of the
oceans, so that islands go with the nearest shore. They are right to about a hundred kilometers.
Antarctica is everything south of 60 degrees.
"""

from functools import cache

import numpy as np

CONTINENTS = (
    *("Africa", "Antarctica", "Asia", "Europe", "North America", "Oceania", "South America"),
)

_ANTARCTIC_DEG = -60.0

# Lines between two continents as (longitude, latitude), longitudes in [-180, 180].
_EUROPE_AFRICA = (
    *((-35, 30), (-13, 35.3), (-5.6, 35.95), (-2, 36.2), (5, 38), (10.6, 38), (11.5, 37)),
    *((13.4, 35.2), (15.5, 34.6), (23, 34.2), (29.5, 34.9)),
)
_EUROPE_ASIA = (
    *((29.5, 34.9), (28.8, 36.2), (28.2, 36.6), (27.3, 36.6), (27.1, 37.6), (26.3, 38.3)),
    *((26.7, 39.4), (26.1, 39.9), (26.2, 40.05), (27, 40.45), (28.9, 40.95), (29.03, 41.05)),
    *((29.15, 41.25),),
    *((32, 43), (37, 44.5), (39.7, 43.4), (43, 42.9), (46, 42.2), (48.6, 41.8), (50, 44)),
    *((51.7, 47), (51.5, 51), (59, 51), (59, 55), (60.3, 57), (59.5, 61), (65, 66.5)),
    *((68, 69), (70, 77), (72, 90)),
)
_AFRICA_ASIA = (
    *((29.5, 34.9), (32.4, 31.5), (32.55, 29.9), (34.3, 27.5), (37.5, 22), (40.5, 16)),
    *((42.9, 13.2), (43.3, 12.55), (47, 12.2), (51.5, 12.6), (55, 11.5), (64, 5), (66, -12)),
)
_ASIA_OCEANIA = (
    *((66, -12), (105, -9.5), (114, -11), (121, -11.8), (127, -10.6), (131, -8.8), (133.5, -7.6)),
    *((134, -4.7), (131.5, -3.4), (129.8, -2), (129.3, 1), (131, 5), (132, 10), (140, 22)),
    *((146, 24), (160, 32), (180, 40)),
)
_ASIA_AMERICA = ((180, 49), (169.5, 51.5), (169.8, 54.3), (180, 57.5))
_ASIA_AMERICA_EAST = ((-180, 57.5), (-174, 62.5), (-169, 65.8), (-169, 90))
_AMERICA_OCEANIA = ((-180, 40), (-140, 33), (-125, 24), (-118, 10), (-102, 0))
_PANAMA = (
    *((-102, 0), (-86, 4.5), (-78.2, 7.2), (-77.3, 8.6), (-77, 10.5), (-74, 13.2), (-67, 13)),
    *((-62.6, 11.7), (-59, 11.8), (-45, 16), (-35, 30)),
)
_EUROPE_AMERICA = (
    *((-35, 30), (-41, 45), (-35, 58), (-28.5, 66), (-19, 68.5), (-9, 72), (-6, 80), (-6, 90)),
)
_AMERICA_AFRICA = ((-35, 30), (-28, 8), (-25, -5), (-25, -60))
_AMERICA_PACIFIC = ((-102, 0), (-100, -20), (-100, -60))
_AFRICA_INDIAN = ((66, -12), (66, -60))


@cache
def _outlines() -> tuple[tuple[str, np.ndarray], ...]:
    europe = [*_EUROPE_AFRICA, *_EUROPE_ASIA[1:], *reversed(_EUROPE_AMERICA)]
    africa = [*_AMERICA_AFRICA[::-1], *_EUROPE_AFRICA[1:], *_AFRICA_ASIA[1:], _AFRICA_INDIAN[1]]
    asia = [*_EUROPE_ASIA[::-1], *_AFRICA_ASIA[1:], *_ASIA_OCEANIA[1:], *_ASIA_AMERICA, (180, 90)]
    asia_east = [(-180, 57.5), *_ASIA_AMERICA_EAST[1:], (-180, 90)]
    aleutians = [*_ASIA_AMERICA]
    north = [
        *((-180, 40), *_AMERICA_OCEANIA[1:], *_PANAMA[1:], *_EUROPE_AMERICA[1:]),
        *((-169, 90), *_ASIA_AMERICA_EAST[::-1][1:]),
    ]
    south = [*_PANAMA, *_AMERICA_AFRICA[1:], *_AMERICA_PACIFIC[::-1]]
    oceania_west = [*_ASIA_OCEANIA, (180, -60), (66, -60)]
    oceania_east = [*_AMERICA_OCEANIA, *_AMERICA_PACIFIC[1:], (-180, -60)]
    named = (
        *(("Europe", europe), ("Africa", africa), ("Asia", asia), ("Asia", asia_east)),
        *(("North America", aleutians), ("North America", north), ("South America", south)),
        *(("Oceania", oceania_west), ("Oceania", oceania_east)),
    )
    return tuple((name, np.array(outline, dtype=np.float64)) for name, outline in named)


def continent_of(latlng_deg: np.ndarray) -> np.ndarray:
    """Return the index (N,) int64 into ``CONTINENTS`` of positions (N, 2) in degrees."""
    from matplotlib.path import Path

    points = np.asarray(latlng_deg, np.float64).reshape(-1, 2)[:, ::-1].copy()
    # A position on an outline may fall to either side, but at the map's edge it must fall inside.
    points = np.clip(points, (-179.9999, -89.9999), (179.9999, 89.9999))
    found = np.full(len(points), -1)
    found[points[:, 1] < _ANTARCTIC_DEG] = CONTINENTS.index("Antarctica")
    for radius in (0.0, 1e-6, -1e-6):
        for name, outline in _outlines():
            inside = Path(outline).contains_points(points, radius=radius)
            found[(found < 0) & inside] = CONTINENTS.index(name)
    return found
