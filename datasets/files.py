"""Writing files so that a reader never sees half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
