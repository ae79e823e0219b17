"""Tables in numpy's ``.npz`` files, without pickle and without what would exhaust the memory."""

import zipfile
from pathlib import Path

import numpy as np

from .errors import DataError

_UNSUSPICIOUS_BYTES = 2**30
_HIGHEST_RATIO = 200
"""Deflate shrinks zeros to a thousandth; names, positions and vectors hardly to a tenth."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file by name.

    Raises:
        DataError: It is absent or damaged, holds objects or something else than arrays, or unpacks
            to more than 1 GiB and 200 times its own size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
        stored = path.stat().st_size
        if declared > max(_UNSUSPICIOUS_BYTES, _HIGHEST_RATIO * stored):
            raise DataError(
                f"{path}: {stored:,} bytes that unpack to {declared:,}; the file is damaged or "
                "made to exhaust the memory. Write it again"
            )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for a damaged file
        raise DataError(f"{path}: not a readable .npz file ({error}). Write it again") from error
    for name, array in arrays.items():  # an entry that is no .npy file is bytes
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: {name} is no array; the file is of another kind")
    return arrays
