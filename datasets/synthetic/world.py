"""A generated world: photos that show, with some noise, where they were taken.

Some dozens of sites are spread over the sphere. Most photos show the landmark of a site and were
taken within a kilometer of it; the rest are countryside, up to some thousand kilometers away. The
color of the sky changes with the longitude, that of the ground with the latitude, and a pattern on
the ground with both, so that regions can be recognized without a landmark, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..geolocation.coordinates import PositionTable, write_positions
from .generated import write_jpeg, write_splits
from .scenes import colorize, grid, harden, hsv, octave_noise, wave

SPLITS = ("train", "val", "test")
SITES = 40
LANDMARK_SHARE = 0.8
"""Share of the photos that show a landmark."""
_SITE_SIGMA_KM = 0.25
_COUNTRY_KM = 250.0
_KM_PER_DEGREE = 111.195  # of a great circle, on a sphere of 6371 km
_HIGHEST_SITE_DEG = 66.0
_COUNTRYSIDE = -1


class WorldPhotos(NamedTuple):
    """Positions and sites of N photos."""

    latlng_deg: np.ndarray
    """(N, 2) float64."""
    sites: np.ndarray
    """(N,) int64, the site of the landmark that is seen; -1 for countryside."""


def site_positions(seed: int) -> np.ndarray:
    """Draw latitude and longitude of the sites (40, 2) in degrees, evenly spread by area."""
    rng = np.random.default_rng([seed, 2])
    highest = np.sin(np.radians(_HIGHEST_SITE_DEG))
    latitude = np.degrees(np.arcsin(rng.uniform(-highest, highest, SITES)))
    return np.stack([latitude, rng.uniform(-180, 180, SITES)], axis=1)


def world_photos(split: str, count: int, seed: int = 0) -> WorldPhotos:
    """Draw the positions of ``count`` photos of "train", "val" or "test"; nothing is painted."""
    rng = np.random.default_rng([seed, 3, SPLITS.index(split)])
    places = site_positions(seed)
    popularity = np.random.default_rng([seed, 4]).uniform(0.5, 1.5, SITES)
    near = rng.choice(SITES, count, p=popularity / popularity.sum())
    landmark = rng.random(count) < LANDMARK_SHARE
    close_km = _SITE_SIGMA_KM * np.hypot(*rng.normal(size=(2, count)))
    distance_km = np.where(landmark, close_km, 20 + rng.exponential(_COUNTRY_KM, count))
    latlng_deg = _moved(places[near], distance_km, rng.uniform(0, 2 * np.pi, count))
    return WorldPhotos(latlng_deg, np.where(landmark, near, _COUNTRYSIDE))


def _moved(latlng_deg: np.ndarray, distance_km: np.ndarray, bearing: np.ndarray) -> np.ndarray:
    """Move positions (N, 2) along great circles; bearings in radians from north.

    The direct problem on the sphere: with the arc d between both points,
    sin(lat2) = sin(lat1) cos(d) + cos(lat1) sin(d) cos(bearing).
    """
    latitude, longitude = np.radians(latlng_deg).T
    arc = np.radians(distance_km / _KM_PER_DEGREE)
    sine = np.sin(latitude) * np.cos(arc) + np.cos(latitude) * np.sin(arc) * np.cos(bearing)
    there = np.arcsin(np.clip(sine, -1, 1))
    east = np.arctan2(
        np.sin(bearing) * np.sin(arc) * np.cos(latitude), np.cos(arc) - np.sin(latitude) * sine
    )
    turned = np.degrees(longitude + east)
    return np.stack([np.degrees(there), (turned + 180) % 360 - 180], axis=1)


def draw_photo(
    rng: np.random.Generator, latlng_deg: np.ndarray, site: int, size_hw: tuple[int, int], seed: int
) -> np.ndarray:
    """Paint a photo (H, W, 3) uint8 RGB at a position (2,) in degrees.

    ``rng`` draws weather, light and camera, ``site`` is that of the landmark, -1 for none, and
    ``seed`` is that of the world, from which its landmarks follow.
    """
    latitude, longitude = (float(value) for value in latlng_deg)
    height, _ = size_hw
    x, y = grid(size_hw)
    horizon = height * rng.uniform(0.55, 0.68)
    sky = hsv(longitude / 360 + rng.normal(0, 0.012), rng.uniform(0.4, 0.6), 0.95)
    clouds = octave_noise(rng, size_hw, cells=2, octaves=3) * np.float32(rng.uniform(0.1, 0.5))
    above = colorize(clouds, sky, np.ones(3, np.float32))
    hue = 0.8 * (latitude + 90) / 180 + rng.normal(0, 0.01)
    ground = hsv(hue, 0.75, rng.uniform(0.55, 0.75))
    # Stripes that turn once in 40 degrees of longitude and narrow with 20 degrees of latitude.
    angle = np.pi * ((longitude / 40) % 1) + rng.normal(0, 0.08)
    period = height * (0.09 + 0.12 * ((latitude / 20) % 1))
    stripes = harden(wave(x, y, angle=angle, period=period, phase=rng.uniform(0, 6.3)), 2.0)
    below = colorize(0.35 * stripes, ground, np.zeros(3, np.float32))
    image = np.where(y[None] > horizon, below, above).transpose(1, 2, 0)
    image = np.ascontiguousarray(image, dtype=np.float32)
    if site != _COUNTRYSIDE:
        _draw_landmark(image, rng, np.random.default_rng([seed, 5, site]), horizon)
    light = rng.uniform(0.75, 1.15)
    image = image * light + rng.normal(0, 0.03, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _draw_landmark(
    image: np.ndarray, rng: np.random.Generator, plan: np.random.Generator, horizon: float
) -> None:
    """Paint towers, domes and roofs over an image (H, W, 3); ``plan`` is that of the site."""
    height, width = image.shape[:2]
    scale = height * rng.uniform(0.85, 1.15)
    center = width * rng.uniform(0.38, 0.62)
    for _ in range(int(plan.integers(3, 6))):
        color = hsv(plan.uniform(), plan.uniform(0.2, 1.0), plan.uniform(0.25, 1.0))
        paint = tuple(float(value) for value in color)
        middle = center + scale * plan.uniform(-0.28, 0.28)
        half, tall = scale * plan.uniform(0.05, 0.14), scale * plan.uniform(0.15, 0.5)
        left, right, top = round(middle - half), round(middle + half), round(horizon - tall)
        foot = round(horizon + 0.04 * scale)
        kind = int(plan.integers(3))
        cv2.rectangle(image, (left, top), (right, foot), paint, thickness=-1)
        if kind == 1:
            peak = (round(middle), round(top - 1.5 * half))
            cv2.fillPoly(image, [np.array([(left, top), peak, (right, top)])], paint)
        elif kind == 2:
            cv2.circle(image, (round(middle), top), round(half), paint, thickness=-1)


def write_world(
    root: Path | str,
    *,
    train: int = 4000,
    val: int = 600,
    test: int = 0,
    size_hw: tuple[int, int] = (64, 64),
    seed: int = 0,
    progress: bool = True,
) -> bool:
    """Make ``root/train/000001.jpg`` ... with ``train.csv``, ``val.csv`` and ``test.csv``.

    For the parameters see `write_splits`; with 0 test photos there is no test split.
    """
    counts: dict[str, int] = {"train": train, "val": val, "test": test}

    def write_split(folder: Path, split: str, index: int, numbers: Iterator[int]) -> None:
        (folder / split).mkdir(parents=True)
        photos = world_photos(split, counts[split], seed)
        names = [f"{split}/{number:06d}.jpg" for number in range(1, counts[split] + 1)]
        write_positions(folder / f"{split}.csv", PositionTable(split, names, photos.latlng_deg))
        for row, name in zip((number - 1 for number in numbers), names, strict=True):
            rng = np.random.default_rng([seed, index, row])
            site = int(photos.sites[row])
            pixels = draw_photo(rng, photos.latlng_deg[row], site, size_hw, seed)
            write_jpeg(folder / name, pixels, rng)

    return write_splits(
        root, write_split, counts=counts, size_hw=size_hw, seed=seed, version=1,
        kind="a world of photos", progress=progress,
    )  # fmt: skip
