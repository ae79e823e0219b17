"""Geolocate the images of any number of files: printed lines, JSON and GeoJSON."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.geolocation.exif import NoPosition, exif_position
from ...datasets.geolocation.geodesy import distance_km
from ...heads.geolocation.metrics import WITHIN_KM, shares_within
from ..inference.geolocation import Geolocator, LocationResult
from .inputs import find_files
from .runner import (
    Job,
    Listed,
    Made,
    file_digest,
    over_inputs,
    print_faults,
    run_over_files,
    title,
)
from .showing import Showing, Window


@dataclass(frozen=True)
class LocateOptions:
    """Options of ``locate``.

    Attributes:
        top: Number of places of each image.
        batch_size: Number of images that go through the network at once.
        compare_exif: Compare with the GPS positions in the images.
        geojson: File for positions and outlines of cells, or None.
        out: File for a line of JSON for each image, from which a run is continued, or None.
        window: Shows the places, or None.
    """

    top: int = 5
    batch_size: int = 16
    compare_exif: bool = False
    geojson: Path | None = None
    out: Path | None = None
    window: Window | None = None


def locate(
    inputs: Sequence[str], geolocator: Geolocator, model: Path, options: LocateOptions
) -> int:
    """Locate images, videos and streams, print a line for each, and write the files of the options.

    For ``inputs`` see ``find_files``, with ``addresses``. The lines of frames have ``frame`` and
    ``time_s``. The results depend on the content of the file ``model``.

    Returns:
        The number of images that could not be read.

    Raises:
        DataError: An input is absent, or an option is out of range.
    """
    files = find_files(inputs, addresses=True)
    progress = None if options.out is None else Path(f"{options.out}.progress")
    job = _LocateJob(geolocator, model, options)

    def write_line(file: Listed, made: Made) -> None:
        tqdm.write(_line(title(file, made), json.loads(made.content)), file=sys.stdout)

    each = write_line if progress is None else None
    with run_over_files(files, job, progress, each) as store:
        entries = []
        for file, made in store.results():
            framed = {} if file.kind == "image" else {"frame": made.frame, "time_s": made.time_s}
            entries.append({"file": file.name, **framed, **json.loads(made.content)})
            if each is None:
                print(_line(title(file, made), entries[-1]), flush=True)
        if options.out is not None:
            lines = [json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries]
            write_atomically(options.out, "".join(lines).encode())
        if options.geojson is not None:
            features = [feature for entry in entries for feature in entry["features"]]
            content = {"type": "FeatureCollection", "features": features}
            write_atomically(options.geojson, (json.dumps(content) + "\n").encode())
            print(f"GeoJSON: {options.geojson}")
        if options.compare_exif:
            print(_comparison(entries))
        faults = store.counts().faults
        print_faults(store, faults)
    return faults


class _LocateJob(Job):
    """The ``Job`` that locates images."""

    def __init__(self, geolocator: Geolocator, model: Path, options: LocateOptions) -> None:
        self.geolocator = geolocator
        self.options = options
        self.files_at_once = options.batch_size
        self.depends = {
            "model": file_digest(model),
            "answer": geolocator.answer,
            "five_crop": geolocator.five_crop,
            "size_hw": list(geolocator.size_hw),
            "top": options.top,
            "geojson": options.geojson is not None,
            "compare_exif": options.compare_exif,
        }

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        stream, top, size = self.geolocator.stream, self.options.top, self.options.batch_size
        showing = Showing(self.geolocator.draw, window=self.options.window)
        return over_inputs(files, lambda images: stream(images, top, size), self._made, showing)

    def _made(self, file: Listed, result: LocationResult) -> Made:
        entry = result.to_dict()
        if self.options.geojson is not None:
            entry["features"] = result.to_geojson(file.name)["features"]
        if self.options.compare_exif and not file.address and file.kind == "image":
            entry["exif"] = _compared(file.path, (result.latitude, result.longitude))
        return Made(1, json.dumps(entry).encode())


def _compared(path: Path, predicted_deg: tuple[float, float]) -> dict[str, Any]:
    position = exif_position(path)
    if isinstance(position, NoPosition):
        return {"reason": position.name.lower()}
    error = float(distance_km(np.array(position), np.array(predicted_deg)))
    return {"latitude": position[0], "longitude": position[1], "error_km": error}


def _line(name: str, entry: dict[str, Any]) -> str:
    best = entry["places"][0]
    line = (
        f"{name}: {entry['latitude']:.5f}, {entry['longitude']:.5f}  "
        f"50 % within {entry['radius_50_km']:,.1f} km, 90 % within {entry['radius_90_km']:,.1f} km"
        f"  best cell {best['cell']} ({best['probability']:.3f})"
    )
    exif = entry.get("exif")
    if exif is None:
        return line
    if "error_km" in exif:
        place = f"{exif['latitude']:.5f}, {exif['longitude']:.5f}"
        return f"{line}  EXIF {place}, {exif['error_km']:,.1f} km away"
    return f"{line}  {'EXIF position broken' if exif['reason'] == 'broken' else 'no EXIF position'}"


def _comparison(entries: Sequence[dict[str, Any]]) -> str:
    """Return the shares within five distances, over the images that have a GPS position."""
    found = [entry["exif"] for entry in entries if "exif" in entry]
    errors = [exif["error_km"] for exif in found if "error_km" in exif]
    reasons = Counter(exif["reason"] for exif in found if "reason" in exif)
    without = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"
    lines = [f"Compared with EXIF: {len(errors):,} images (without a position: {without})"]
    if errors:
        shares = shares_within(np.array(errors))
        within = "  ".join(f"{shares[km]:.3f} within {km} km" for km in WITHIN_KM)
        lines.append(f"  {within}  median {float(np.median(errors)):,.1f} km")
    return "\n".join(lines)
