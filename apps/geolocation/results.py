"""What a geolocator says of one picture: places with probabilities, outlines, uncertainty."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...heads.geolocation.cells import Partition
from ..files.inputs import Picture

Ring = list[tuple[float, float]]


@dataclass(frozen=True)
class Place:
    """A cell that the picture may have been taken in.

    Attributes:
        latitude: Of the mean position of the cell's training photos, in degrees.
        longitude: Likewise.
        probability: In [0, 1].
        cell: S2 token.
        index: Class index of the cell.
    """

    latitude: float
    longitude: float
    probability: float
    cell: str
    index: int


@dataclass(frozen=True)
class LocationResult:
    """Where a picture was taken, and how sure that is.

    Attributes:
        latitude: The answer, in degrees.
        longitude: Likewise.
        radius_50_km: Around the answer, what holds half of the probability.
        radius_90_km: Likewise nine tenths.
        places: The most probable cells, falling.
        partition: The cells, for outlines.
        picture: What was looked at.
    """

    latitude: float
    longitude: float
    radius_50_km: float
    radius_90_km: float
    places: tuple[Place, ...]
    partition: Partition
    picture: Picture

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the answer, the radii and the places, without outlines."""
        return {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "radius_50_km": self.radius_50_km,
            "radius_90_km": self.radius_90_km,
            "places": [
                {
                    "latitude": place.latitude,
                    "longitude": place.longitude,
                    "probability": place.probability,
                    "cell": place.cell,
                }
                for place in self.places
            ],
        }

    def to_geojson(self, name: str | None = None) -> dict[str, Any]:
        """A FeatureCollection (RFC 7946): the answer as a point, the cells as polygons.

        Args:
            name: Goes into the properties of each feature as ``picture``.

        Raises:
            DataError: ``s2geometry`` is not installed.
        """
        named = {} if name is None else {"picture": name}
        answer = {
            "radius_50_km": self.radius_50_km,
            "radius_90_km": self.radius_90_km,
            **named,
        }
        point = {"type": "Point", "coordinates": _rounded(self.longitude, self.latitude)}
        features = [_feature(point, answer)]
        for place in self.places:
            outline = geometry(self.partition.polygon(place.index))
            said = {"cell": place.cell, "probability": place.probability, **named}
            features.append(_feature(outline, said))
        return {"type": "FeatureCollection", "features": features}


def _feature(shape: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": shape, "properties": properties}


def geometry(ring: Ring) -> dict[str, Any]:
    """A closed ring of (longitude, latitude) as GeoJSON, cut at the antimeridian (Section 3.1.9).

    Args:
        ring: without jumps; longitudes may reach beyond 180 degrees.
    """
    parts = []
    for shift in (-360.0, 0.0, 360.0):
        moved = [(longitude + shift, latitude) for longitude, latitude in ring]
        part = _clipped(_clipped(moved, 180.0, 1.0), -180.0, -1.0)
        if len(part) > 3 and len({longitude for longitude, _ in part}) > 1:
            parts.append([_rounded(longitude, latitude) for longitude, latitude in part])
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts}
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _rounded(longitude: float, latitude: float) -> list[float]:
    """To a centimetre, as Section 11.2 of RFC 7946 advises against false precision."""
    return [round(longitude, 7), round(latitude, 7)]


def _clipped(ring: Ring, edge: float, sign: float) -> Ring:
    """The part of a closed ring where sign * longitude <= sign * edge (Sutherland & Hodgman)."""
    out: Ring = []
    for (x, y), (next_x, next_y) in pairwise(ring):
        inside, next_inside = sign * x <= sign * edge, sign * next_x <= sign * edge
        if inside:
            out.append((x, y))
        if inside != next_inside:
            share = (edge - x) / (next_x - x)
            out.append((edge, y + share * (next_y - y)))
    return [*out, out[0]] if out else []
