"""``gallery.json``: which model a gallery's embeddings are of. Free of torch."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ..inference.face_pipeline import Threshold

GALLERY_FORMAT = 1
FACTS_FILE = "gallery.json"


class GalleryFacts(NamedTuple):
    """What all faces of a gallery have in common."""

    model: dict[str, Any]
    """Plain data that says which model made the embeddings."""
    dimension: int
    """Length of an embedding."""
    threshold: Threshold | None
    """As measured with the model; None where it was not."""


def write_facts(folder: Path, facts: GalleryFacts) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    threshold = list(facts.threshold) if facts.threshold else None
    content = {"format": GALLERY_FORMAT, **facts._asdict(), "threshold": threshold}
    write_atomically(folder / FACTS_FILE, json.dumps(content, indent=1).encode())


def read_facts(folder: Path) -> GalleryFacts:
    """Read and check the file.

    Raises:
        DataError: There is no gallery, it is of another format, or the file is damaged.
    """
    path = folder / FACTS_FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder}: no gallery. `mobilevision gallery enroll` makes one."
        ) from error
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise _damaged(path, f"is not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"has a {type(content).__name__} where an object belongs")
    if content.get("format") != GALLERY_FORMAT:
        raise DataError(
            f"{path}: a gallery of format {content.get('format')}, and this version reads "
            f"{GALLERY_FORMAT}. Enroll the people anew in another folder."
        )
    model, dimension = content.get("model"), content.get("dimension")
    if not isinstance(model, dict):
        raise _damaged(path, f"has the model {model!r}, not an object")
    if type(dimension) is not int or dimension < 1:
        raise _damaged(path, f"has the dimension {dimension!r}, not a whole number from 1")
    return GalleryFacts(model, dimension, _threshold(path, content.get("threshold")))


def _threshold(path: Path, value: Any) -> Threshold | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or any(type(number) not in (int, float) for number in numbers):
        raise _damaged(path, f"has the threshold {value!r}, not [similarity, FAR]")
    threshold = Threshold(*numbers)
    if not (-1 <= threshold.similarity <= 1 and 0 <= threshold.far <= 1):
        raise _damaged(
            path, f"has the threshold {value}; a similarity is in [-1, 1], a FAR in [0, 1]"
        )
    return threshold


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: damaged, {what}. Restore the file from a backup, or enroll the people anew in "
        "another folder."
    )
