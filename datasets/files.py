"""Writing files so that a reader never sees half of one, and reading JSON with named errors."""

import json
import logging
import ntpath
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError


def read_json(file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        file: The file, in UTF-8, -16 or -32.
        object_hook: Is handed each object while it is parsed; see ``json.loads``.

    Raises:
        DataError: The file is absent, cannot be read, is no JSON, or nests too deep.
    """
    try:
        return json.loads(file.read_bytes(), object_hook=object_hook)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file. Check the path and the data root.") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise DataError(
            f"{file}: not a JSON file that can be read ({error}). Export or download it again; it "
            "may have been cut short."
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; folders on the way are made.

    The bytes go to a temporary file in the same folder, which then takes the name of the target:
    whoever opens the path finds the old content or the new.

    Args:
        path: the file to write or replace.
        data: its whole content.

    Raises:
        OSError: the folder cannot be written; the old file is untouched.
    """
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the name of ``path`` at the end.

    For what does not fit into the memory, or what a library writes by itself. The temporary file
    has the suffix of the target, and goes where the body raises.

    Args:
        path: the file to write or replace; folders on the way are made.

    Raises:
        OSError: the folder cannot be written, or nothing was written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """As ``replaced_atomically``, for what a library writes as a folder.

    A folder cannot take the place of another in one step: the old one is moved aside, the new one
    takes its name, then the old one is removed. A reader finds the old one, the new one or, for an
    instant, none; never half of one.

    Args:
        path: the folder to write or replace; folders on the way are made.

    Raises:
        OSError: the folder cannot be written, or nothing was written; the old one is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (
        path.with_name(f".{path.stem}.{os.getpid()}.{word}{path.suffix}") for word in ("tmp", "old")
    )
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    finally:
        for left in (temporary, old):
            remove_tree(left)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


_log = logging.getLogger(__name__)

_DRIVE = re.compile(r"[A-Za-z]:/|//")


class FileNames:
    """Finds the files that an annotation file names, below one folder.

    Backslashes are read as separators unless a file is really called so. Of an absolute path that
    is not there, the last parts are looked for below the folder.

    Args:
        folder: What relative names are relative to.

    Attributes:
        foreign: Number of absolute paths of another machine that were found by their last parts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.foreign = 0

    def locate(self, name: str) -> Path:
        """Return the path of a name; whether there is a file is not looked at for plain names.

        Raises:
            ValueError: The name leads out of the folder.
        """
        if "\\" in name and not (self.folder / name).exists():
            name = name.replace("\\", "/")
        if os.path.isabs(name) or _DRIVE.match(name):
            return self._absolute(name)
        if ".." in name.split("/") and os.path.normpath(name).split(os.sep)[0] == "..":
            raise ValueError(f"{name!r} leads out of the dataset")
        return self.folder / name

    def locate_all(self, names: Iterable[str], source: Path) -> list[str]:
        """Return the paths of the names that a table has, and warn of foreign ones.

        Args:
            names: As the table has them.
            source: The table, for messages.

        Raises:
            DataError: A name leads out of the folder.
        """
        try:
            paths = [str(self.locate(name)) for name in names]
        except ValueError as error:
            raise DataError(
                f"{source}: the file {error}. Move the file below {self.folder}, or name it so"
            ) from error
        self.warn_of_foreign(source)
        return paths

    def warn_of_foreign(self, source: Path) -> None:
        """Say once how many absolute paths of another machine were found elsewhere."""
        if self.foreign:
            _log.warning(
                f"{source}: {self.foreign:,} file names are absolute paths of another machine; the "
                f"files were found below {self.folder} by the last parts of their paths"
            )

    def _absolute(self, name: str) -> Path:
        path = Path(name)
        if path.is_absolute() and path.is_file():
            return path
        parts = [part for part in ntpath.splitdrive(name)[1].split("/") if part not in ("", "..")]
        for first in range(len(parts)):
            candidate = self.folder.joinpath(*parts[first:])
            if candidate.is_file():
                self.foreign += 1
                return candidate
        return self.folder / (parts[-1] if parts else "")


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
