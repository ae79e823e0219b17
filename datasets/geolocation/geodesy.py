"""Great circles on a sphere of the Earth's mean radius; numpy, and torch where losses need it.

On the sphere a distance differs from the one on the WGS 84 ellipsoid by at most about 0.6 %. The
published figures of this field use the sphere.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

EARTH_RADIUS_KM = 6371.0088
"""Mean radius (2 a + b) / 3 of WGS 84 (Moritz 2000, "Geodetic Reference System 1980")."""
ANTIPODE_KM = np.pi * EARTH_RADIUS_KM
"""The largest distance on the sphere."""


def unit_vectors(latlng_deg: np.ndarray) -> np.ndarray:
    """Convert positions (..., 2) in degrees to points (..., 3) float64 of the unit sphere."""
    latitude, longitude = np.moveaxis(np.radians(np.asarray(latlng_deg, np.float64)), -1, 0)
    across = np.cos(latitude)
    return np.stack(
        [across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=-1
    )


def to_latlng_deg(vectors: np.ndarray) -> np.ndarray:
    """Convert vectors (..., 3) of any length but zero to positions (..., 2) in degrees."""
    x, y, z = np.moveaxis(np.asarray(vectors, np.float64), -1, 0)
    return np.degrees(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))


def distance_km(first_deg: np.ndarray, second_deg: np.ndarray) -> np.ndarray:
    """Return great-circle distances (...) float64 in km of positions (..., 2) in degrees.

    They broadcast. The arctangent of cross and dot product is exact to rounding at all distances,
    whereas the arccosine fails for near points and the haversine for antipodes.
    """
    first, second = unit_vectors(first_deg), unit_vectors(second_deg)
    cross = np.linalg.norm(np.cross(first, second), axis=-1)
    return EARTH_RADIUS_KM * np.arctan2(cross, (first * second).sum(axis=-1))


def pairwise_km(first: "Tensor", second: "Tensor") -> "Tensor":
    """Return great-circle distances (N, M) float32 in km of unit vectors (N, 3) and (M, 3).

    Computed from the chord, which keeps a meter in float32 at short distances.
    """
    import torch

    chord = torch.cdist(first.float(), second.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return 2 * EARTH_RADIUS_KM * torch.asin((chord / 2).clamp(max=1.0))
