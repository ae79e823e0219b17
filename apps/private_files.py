"""Files that only their owner may read. Free of torch."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SharedFilesWarning(UserWarning):
    """Others could read files that are meant for their owner alone."""


def is_shared(path: Path) -> bool:
    """Whether a file or folder has rights for its group or for everybody.

    Always False on systems without such rights (Windows, where a folder's access list decides).

    Raises:
        OSError: There is no such file, or it cannot be asked.
    """
    return os.name == "posix" and bool(path.stat().st_mode & _OTHERS)


def make_private(*paths: Path) -> None:
    """Take the rights of group and others from files and folders, and from all that is in them.

    Symbolic links are left alone, and what is absent or goes meanwhile is passed over. Does nothing
    on systems without such rights.

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
    """Make an empty private file where there is none, and a private one of what is there.

    Raises:
        OSError: It cannot be made, or belongs to another user.
    """
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, PRIVATE_FILE))
    make_private(path)


def _all(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        yield path
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))
