"""Enroll and identify the people in images, for ``mobilevision gallery``."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import ImageFile
from ...heads.face_embedding.threshold import Threshold
from ..batch.inputs import find_files
from ..inference.face_detection import FaceChoice
from ..inference.face_embedding import Face, FaceEmbedder, model_fingerprint
from .gallery import Gallery, Match, accepted, check_name


@dataclass(frozen=True)
class Model:
    """The options of a face model.

    Attributes:
        model: As ``FaceEmbedder.load`` takes it.
        device: As ``FaceEmbedder.load`` takes it.
        aligned: Whether the images are aligned faces already, so that none are searched for.
        detector: Finds the faces, as ``FaceEmbedder.load`` takes it.
        faces: Which faces of an image are taken.
    """

    model: str
    device: str = "auto"
    aligned: bool = False
    detector: str | None = None
    faces: FaceChoice = "all"

    def load(self) -> tuple[FaceEmbedder, dict[str, Any]]:
        """Return the embedder, and plain data that identifies its model."""
        embedder = FaceEmbedder.load(self.model, self.device, detector=self.detector)
        return embedder, {**model_fingerprint(self.model), "size": embedder.size}

    def find(
        self, embedder: FaceEmbedder, inputs: Sequence[str]
    ) -> Iterator[tuple[str, list[Face] | DataError]]:
        """Yield each image of the inputs and its faces; an aligned image is one face."""
        paths = [file.path for file in find_files(inputs) if file.kind == "image"]
        images = (ImageFile(path) for path in paths)
        names = map(str, paths)
        if not self.aligned:
            yield from zip(names, embedder.stream(images, faces=self.faces), strict=True)
            return
        box, landmarks = np.full(4, np.nan, np.float32), np.full((5, 2), np.nan, np.float32)
        for name, row in zip(names, embedder.stream_aligned(images), strict=True):
            yield name, row if isinstance(row, DataError) else [Face(box, landmarks, 1.0, row)]


def enroll(folder: Path, name: str, inputs: Sequence[str], model: Model) -> list[str]:
    """Add the faces of images to a person, all at once.

    The gallery is created if there is none. Images that are already enrolled are not added again,
    so an interrupted command may be repeated. An image with several faces is a fault, because it
    is unclear whose face it is, unless the model takes one of them.

    Returns:
        A message for each image without a face, or with that of another person.

    Raises:
        DataError: An input is absent, the name is not valid Unicode, or the model cannot be used or
            is not the gallery's.
    """
    check_name(name)
    embedder, metadata = model.load()
    gallery = Gallery.create(folder, metadata, embedder.dimension, embedder.threshold)
    faces_of: dict[str, np.ndarray] = {}
    faults: list[str] = []
    for file, faces in model.find(embedder, inputs):
        if isinstance(faces, DataError):
            faults.append(str(faces))
        elif not faces:
            faults.append(f"{file}: no face found")
        elif len(faces) > 1:
            faults.append(
                f"{file}: {len(faces)} faces; cut one out, or use --faces largest or center"
            )
        else:
            faces_of[file] = faces[0].embedding
    if faces_of:
        files = list(faces_of)
        keys = [_key(Path(file), model.aligned) for file in files]
        enrolled = gallery.enroll(name, np.stack(list(faces_of.values())), keys)
        known = f", {enrolled.known:,} there already" if enrolled.known else ""
        print(f"{name}: {enrolled.added:,} faces added{known}, {enrolled.total:,} in {folder}")
        faults += [
            f"{files[index]}: enrolled as {other} already; leave it out, or remove {other} first"
            for index, other in enrolled.others.items()
        ]
    _print_faults(faults)
    return faults


def identify(
    folder: Path,
    inputs: Sequence[str],
    model: Model,
    threshold: float | None = None,
    count: int = 1,
    as_json: bool = False,
) -> list[str]:
    """Print who the faces of images are, a line or a JSON object for each face.

    A match has at least the threshold as its similarity; None takes the measured one, whose errors
    are printed to stderr and are in each object. At most ``count`` people are named for each face.

    Returns:
        A message for each image that cannot be read.

    Raises:
        DataError: There is no such gallery or input, the model is another one, or there is no
            threshold.
    """
    gallery = Gallery(folder)
    embedder, metadata = model.load()
    gallery.check_model(metadata)
    measured = embedder.threshold or gallery.threshold if threshold is None else None
    limit = measured.similarity if measured else threshold
    if limit is None:
        raise DataError(
            f"{folder}: the model's threshold was not measured; give one, such as --threshold 0.4"
        )
    people = len(gallery.people())
    search = _search(limit, measured, people) if as_json else None
    faults: list[str] = []
    for file, faces in model.find(embedder, inputs):
        if isinstance(faces, DataError):
            faults.append(str(faces))
            continue
        rows = np.stack([face.embedding for face in faces]) if faces else None
        matches = [] if rows is None else gallery.identify(rows, count)
        _print_faces(file, faces, [accepted(own, limit) for own in matches], search)
    given = [f"threshold {limit:g}, as given: its errors were not measured"]
    print(*(measured.explain(people) if measured else given), sep="\n", file=sys.stderr)
    _print_faults(faults, sys.stderr if as_json else sys.stdout)
    return faults


def remove(folder: Path, name: str, inputs: Sequence[str] = ()) -> None:
    """Remove a person from a gallery, or only the faces of images with which they were enrolled.

    Raises:
        DataError: There is no such gallery, person or input, the person was not enrolled with these
            images, or traces of the faces could not be deleted.
    """
    keys = [_key(file.path, aligned) for file in find_files(inputs) for aligned in (False, True)]
    count = Gallery(folder).remove(name, keys if inputs else None)
    print(f"{name}: {count:,} faces removed")


def _search(limit: float, measured: Threshold | None, people: int) -> dict[str, Any]:
    """Return the threshold of a search and its measured errors, as plain data."""
    search: dict[str, Any] = {"threshold": limit, "people": people}
    if measured is None:
        return search
    groups = {name: {"far": rates.far, "frr": rates.frr}
              for name, rates in (measured.groups or {}).items()}  # fmt: skip
    chance = round(measured.chance_of_match(people), 6)
    errors = {"far": measured.far, "chance_of_stranger": chance, "dataset": measured.dataset}
    return {**search, **errors, "groups": groups or None}


def _key(file: Path, aligned: bool) -> str:
    """Return the key of the one face that is taken from an image."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return f"{digest} {'aligned' if aligned else 'found'}"


def _print_faces(
    file: str,
    faces: Sequence[Face],
    matches: Sequence[Sequence[Match]],
    search: dict[str, Any] | None,
) -> None:
    """Print a line for each face, or with ``search`` a JSON object that holds it."""
    if not faces and search is None:
        print(f"{file}: no face")
    for face, own in zip(faces, matches, strict=True):
        known = bool(np.isfinite(face.box).all())
        box = [round(float(value), 1) for value in face.box] if known else None
        if search is not None:
            found = [{"name": name, "similarity": round(value, 4)} for name, value in own]
            row = {"file": file, "box": box, "people": found, "search": search}
            print(json.dumps(row, ensure_ascii=False))
            continue
        place = f" at {', '.join(f'{value:.0f}' for value in box)}" if box else ""
        named = ", ".join(f"{match.name} {match.similarity:.3f}" for match in own)
        print(f"{file}{place}: {named or 'unknown'}")


def _print_faults(faults: Sequence[str], file: Any = None) -> None:
    if faults:
        print(f"\n{len(faults):,} files with faults:", *faults, sep="\n  ", file=file)
