"""The whole of ``mobilevision locate``: places of files, as lines, a table and GeoJSON."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.exif import NoPosition, exif_position
from ...datasets.files import write_atomically
from ...datasets.images import ImageFile
from ...heads.geolocation.geodesy import distance_km
from ...heads.geolocation.metrics import WITHIN_KM, shares_within
from ..files.input_files import InputFile, find_files
from ..files.journal import Journal
from ..inference.geolocation import Geolocator


@dataclass(frozen=True)
class LocateOptions:
    """What is done with what is found.

    Attributes:
        top: Places of each picture.
        batch_size: Pictures that go through the network at once.
        compare_exif: Read the pictures' own GPS positions and compare.
        geojson: File for answers and outlines of cells, or None.
        out: File of JSON lines, one a picture; a run goes on from it. Or None.
    """

    top: int = 5
    batch_size: int = 16
    compare_exif: bool = False
    geojson: Path | None = None
    out: Path | None = None


def locate(
    inputs: Sequence[str], geolocator: Geolocator, model: Path, options: LocateOptions
) -> list[str]:
    """Locate pictures, print a line for each, and write what the options ask for.

    Args:
        inputs: Files, folders and patterns; see ``find_files``.
        geolocator: The model.
        model: Its file, for the journal.
        options: What to do.

    Returns:
        A message for each picture that could not be read.

    Raises:
        DataError: An input is absent, or an option is out of its range.
    """
    files = [file for file in find_files(inputs) if not file.is_video]
    if not files:
        raise DataError("only videos: give pictures")
    entries: list[dict[str, Any]] = []
    faults: list[str] = []
    for outcome in _outcomes(files, geolocator, model, options):
        if isinstance(outcome, str):
            faults.append(outcome)
        else:
            entries.append(outcome)
            print(_line(outcome), flush=True)
    if options.geojson is not None:
        features = [feature for entry in entries for feature in entry["features"]]
        content = {"type": "FeatureCollection", "features": features}
        write_atomically(options.geojson, (json.dumps(content) + "\n").encode())
        print(f"GeoJSON: {options.geojson}")
    if options.compare_exif:
        print(_comparison(entries))
    if faults:
        print(f"{len(faults):,} files with faults:", *faults, sep="\n  ")
    return faults


def _outcomes(
    files: Sequence[InputFile], geolocator: Geolocator, model: Path, options: LocateOptions
) -> Iterator[dict[str, Any] | str]:
    """An entry for each file in order, or why there is none."""
    if options.out is None:
        yield from tqdm(_located(files, geolocator, options), total=len(files), unit="file")
        return
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    work = {
        "model": digest,
        "answer": geolocator.answer,
        "five_crop": geolocator.five_crop,
        "size_hw": list(geolocator.size_hw),
        "top": options.top,
        "geojson": options.geojson is not None,
        "compare_exif": options.compare_exif,
    }
    with Journal(options.out, work) as journal:
        if journal.begun_anew:
            print(f"{options.out}: of other work; beginning anew", file=sys.stderr)
        keys = [_key(file) for file in files]
        left = [file for file, key in zip(files, keys, strict=True) if key not in journal]
        done = tqdm(_located(left, geolocator, options), total=len(left), unit="file")
        faults = []
        for file, outcome in zip(left, done, strict=True):
            if isinstance(outcome, str):
                faults.append(outcome)
            else:
                journal.append([(_key(file), outcome)])
        yield from (journal[key] for key in keys if key in journal)
        yield from faults


def _key(file: InputFile) -> str:
    status = file.path.stat()
    return f"{file.path.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def _located(
    files: Sequence[InputFile], geolocator: Geolocator, options: LocateOptions
) -> Iterator[dict[str, Any] | str]:
    pictures = (ImageFile(file.path) for file in files)
    results = geolocator.stream(pictures, options.top, options.batch_size)
    for file, result in zip(files, results, strict=True):
        if isinstance(result, DataError):
            yield str(result)
            continue
        entry = {"file": file.name, **result.to_dict()}
        if options.geojson is not None:
            entry["features"] = result.to_geojson(file.name)["features"]
        if options.compare_exif:
            entry["exif"] = _compared(file.path, (result.latitude, result.longitude))
        yield entry


def _compared(path: Path, answer_deg: tuple[float, float]) -> dict[str, Any]:
    position = exif_position(path)
    if isinstance(position, NoPosition):
        return {"reason": position.name.lower()}
    error = float(distance_km(np.array(position), np.array(answer_deg)))
    return {"latitude": position[0], "longitude": position[1], "error_km": error}


def _line(entry: dict[str, Any]) -> str:
    best = entry["places"][0]
    line = (
        f"{entry['file']}: {entry['latitude']:.5f}, {entry['longitude']:.5f}  "
        f"50 % within {entry['radius_50_km']:,.1f} km, 90 % within {entry['radius_90_km']:,.1f} km"
        f"  best cell {best['cell']} ({best['probability']:.3f})"
    )
    exif = entry.get("exif")
    if exif is None:
        return line
    return f"{line}  {_exif_text(exif)}"


def _exif_text(exif: dict[str, Any]) -> str:
    if "error_km" in exif:
        place = f"{exif['latitude']:.5f}, {exif['longitude']:.5f}"
        return f"EXIF {place}, {exif['error_km']:,.1f} km away"
    return "EXIF position broken" if exif["reason"] == "broken" else "no EXIF position"


def _comparison(entries: Sequence[dict[str, Any]]) -> str:
    """The five distances over the pictures that have a position of their own."""
    errors = [entry["exif"]["error_km"] for entry in entries if "error_km" in entry["exif"]]
    reasons = Counter(entry["exif"]["reason"] for entry in entries if "reason" in entry["exif"])
    without = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none"
    lines = [f"Compared with EXIF: {len(errors):,} pictures (without a position: {without})"]
    if errors:
        shares = shares_within(np.array(errors))
        said = "  ".join(f"{shares[km]:.3f} within {km} km" for km in WITHIN_KM)
        lines.append(f"  {said}  median {float(np.median(errors)):,.1f} km")
    return "\n".join(lines)
