"""Files that only their owner may read; does not import torch."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SharedFilesWarning(UserWarning):
    """Warning that others could read files that are private to their owner."""


def is_shared(path: Path) -> bool:
    """Return whether a file or folder gives permissions to its group or to everybody.

    Always False on systems without such permissions (on Windows, a folder's access list decides).

    Raises:
        OSError: There is no such file, or its status cannot be read.
    """
    return os.name == "posix" and bool(path.stat().st_mode & _OTHERS)


def make_private(*paths: Path) -> None:
    """Remove the permissions of group and others from files and folders, recursively.

    Symbolic links are left alone, and files that are absent or disappear are skipped. Does nothing
    on systems without such permissions.

    Raises:
        OSError: They belong to another user, or the file system is read-only.
    """
    if os.name != "posix":
        return
    for path in _all(paths):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & _OTHERS:
                path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


def create_private(path: Path) -> None:
    """Create an empty private file, or make an existing file private.

    Raises:
        OSError: It cannot be created, or belongs to another user.
    """
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, PRIVATE_FILE))
    make_private(path)


def _all(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        yield path
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))
