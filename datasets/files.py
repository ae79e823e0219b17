"""Writing files so that a reader never sees half of one, and reading JSON with named errors."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
