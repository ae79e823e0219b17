"""Positions of photos from their EXIF metadata.

They are private: no other module of this package reads them, and nothing logs them.
"""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags
from tqdm import tqdm

from ..errors import DataError
from ..images import open_image
from .coordinates import PositionTable


class NoPosition(Enum):
    """Why a file gives no position."""

    ABSENT = "have no GPS position"
    BROKEN = "have a GPS position that makes no sense"
    UNREADABLE = "are no readable images"


class GpsReport(NamedTuple):
    """The positions of files, and the files without one by reason."""

    table: PositionTable
    without: dict[NoPosition, list[str]]


def exif_position(path: str | Path) -> tuple[float, float] | NoPosition:
    """Return latitude and longitude of an image file in degrees, or why there are none.

    Devices write exactly 0, 0 before they know a position, so that counts as none.
    """
    try:
        with open_image(path, str(path)) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # decoders raise nearly anything on damaged bytes
        return NoPosition.UNREADABLE
    latitude = _angle(tags, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "NS")
    longitude = _angle(tags, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "EW")
    if isinstance(latitude, NoPosition):
        return latitude
    if isinstance(longitude, NoPosition):
        return longitude
    if abs(latitude) > 90 or abs(longitude) > 180:
        return NoPosition.BROKEN
    return NoPosition.ABSENT if latitude == longitude == 0 else (latitude, longitude)


def _angle(tags: dict[int, Any], value_tag: int, sign_tag: int, signs: str) -> float | NoPosition:
    """Decode a coordinate: degrees, minutes and seconds as rationals, and a letter for its sign."""
    if value_tag not in tags:
        return NoPosition.ABSENT
    sign = tags.get(sign_tag, "")
    sign = (sign.decode("ascii", "replace") if isinstance(sign, bytes) else str(sign)).strip("\0 ")
    try:
        parts = [float(part) for part in tags[value_tag]]
    except (TypeError, ValueError, ZeroDivisionError):
        return NoPosition.BROKEN
    if len(parts) != 3 or sign[:1].upper() not in tuple(signs) or not np.isfinite(parts).all():
        return NoPosition.BROKEN
    degrees, minutes, seconds = parts
    if min(parts) < 0 or minutes > 60 or seconds > 60:
        return NoPosition.BROKEN
    size = degrees + minutes / 60 + seconds / 3600
    return float(size if sign[:1].upper() == signs[0] else -size)


def read_gps(files: Sequence[Path], names: Sequence[str], progress: bool = True) -> GpsReport:
    """Read the positions of N images, with their names in the table.

    Raises:
        DataError: None of them has a position.
    """
    found: dict[str, tuple[float, float]] = {}
    without: dict[NoPosition, list[str]] = {reason: [] for reason in NoPosition}
    pairs = zip(files, names, strict=True)
    for file, name in tqdm(pairs, total=len(files), unit="file", disable=not progress):
        position = exif_position(file)
        if isinstance(position, NoPosition):
            without[position].append(name)
        else:
            found[name] = position
    if not found:
        reasons = [f"{len(each):,} {why.value}" for why, each in without.items() if each]
        raise DataError(f"no photo with a GPS position among {len(files):,}: {', '.join(reasons)}")
    table = PositionTable("EXIF positions", list(found), np.array(list(found.values())))
    return GpsReport(table, without)
