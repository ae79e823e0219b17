from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.coordinates import read_positions
from mobilevision.datasets.geolocation.geodesy import distance_km
from mobilevision.datasets.synthetic.world import (
    LANDMARK_SHARE,
    draw_photo,
    site_positions,
    world_photos,
    write_world,
)


def test_photos__near_their_landmarks_or_in_the_country() -> None:
    photos = world_photos("train", 3000)
    assert np.abs(photos.latlng_deg[:, 0]).max() <= 90
    assert np.abs(photos.latlng_deg[:, 1]).max() <= 180
    seen = photos.sites >= 0
    assert seen.mean() == pytest.approx(LANDMARK_SHARE, abs=0.03)
    away_km = distance_km(photos.latlng_deg[seen], site_positions(0)[photos.sites[seen]])
    assert np.median(away_km) == pytest.approx(0.25 * 1.1774, rel=0.1)  # Rayleigh
    nearest = distance_km(photos.latlng_deg[~seen][:, None], site_positions(0)[None]).min(axis=1)
    assert np.median(nearest) > 100


def test_photos__splits_and_seeds__differ_and_repeat() -> None:
    first = world_photos("train", 20, seed=1).latlng_deg
    assert np.array_equal(first, world_photos("train", 20, seed=1).latlng_deg)
    assert not np.array_equal(first, world_photos("val", 20, seed=1).latlng_deg)
    assert not np.array_equal(first, world_photos("train", 20, seed=2).latlng_deg)


def test_look__changes_with_longitude_latitude_and_landmark() -> None:
    def mean(latitude: float, longitude: float, site: int, rows: slice) -> np.ndarray:
        rng = np.random.default_rng(0)
        pixels = draw_photo(rng, np.array([latitude, longitude]), site, (64, 64), 0)
        return pixels[rows].reshape(-1, 3).mean(axis=0)

    sky, ground = slice(0, 12), slice(48, 64)
    assert np.abs(mean(0, 0, -1, sky) - mean(0, 120, -1, sky)).max() > 30
    assert np.abs(mean(0, 0, -1, sky) - mean(60, 0, -1, sky)).max() < 3
    assert np.abs(mean(-50, 0, -1, ground) - mean(50, 0, -1, ground)).max() > 30
    middle = slice(20, 36)
    assert np.abs(mean(0, 0, 1, middle) - mean(0, 0, -1, middle)).max() > 5


def test_write__twice__the_second_time_it_is_there(tmp_path: Path) -> None:
    assert write_world(tmp_path / "w", train=3, val=2, progress=False)
    assert not write_world(tmp_path / "w", train=3, val=2, progress=False)
    table = read_positions(tmp_path / "w" / "train.csv")
    assert table.latlng_deg == pytest.approx(world_photos("train", 3).latlng_deg)
    with Image.open(tmp_path / "w" / table.files[2]) as image:
        assert (image.format, image.size) == ("JPEG", (64, 64))
    with pytest.raises(DataError, match="other parameters"):
        write_world(tmp_path / "w", train=4, val=2, progress=False)


def test_write__with_a_test_split__the_others_stay_as_they_are(tmp_path: Path) -> None:
    write_world(tmp_path / "without", train=2, val=2, progress=False)
    write_world(tmp_path / "with", train=2, val=2, test=3, progress=False)
    assert len(read_positions(tmp_path / "with" / "test.csv").files) == 3
    assert not (tmp_path / "without" / "test.csv").exists()
    for name in ("train.csv", "val.csv", "train/000002.jpg", "val/000001.jpg"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    with pytest.raises(DataError, match="test=-1"):
        write_world(tmp_path / "bad", test=-1, progress=False)
