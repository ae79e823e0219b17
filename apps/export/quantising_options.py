"""What a user decides about 8-bit files: pictures to calibrate on, and how much may be lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import ImageFile, stretch
from ..batch.inputs import find_files

METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of an 8-bit network come from.

    Attributes:
        pictures: Files as the network will meet them, prepared as the file's facts say.
        method: One of ``METHODS``: the extremes that were seen, the range that keeps most
            information, or all but the rarest values.
        limit_db: Signal to noise that the network's answers must keep; layers stay in float32, the
            costliest first, until they do.

    Raises:
        DataError: There are no pictures, or no such method.
    """

    pictures: tuple[Path, ...]
    method: str = "minmax"
    limit_db: float = 20.0

    def __post_init__(self) -> None:
        if not self.pictures:
            raise DataError("--int8 needs pictures to calibrate on: --calibrate FOLDER")
        if self.method not in METHODS:
            raise DataError(f"--calibrate-method {self.method}: there are {', '.join(METHODS)}.")


def find_pictures(words: Sequence[str], count: int) -> tuple[Path, ...]:
    """Pictures that the words of a command line mean, evenly spread if there are more.

    Args:
        words: Files, folders and patterns.
        count: How many to take at most, at least 1.

    Raises:
        DataError: A word names nothing, or the number is less than 1.
    """
    if count < 1:
        raise DataError(f"--calibrate-count {count}: must be at least 1")
    files = [file.path for file in find_files(words) if not file.is_video]
    places = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return tuple(files[place] for place in places)


def read_stretched(path: Path, size_hw: tuple[int, int]) -> np.ndarray:
    """Return a picture at the size of the network: (1, h, w, 3) uint8.

    Raises:
        DataError: It cannot be read.
    """
    return stretch(ImageFile(path).read(), size_hw)[None]
