"""Writing files so that a reader never sees half of one."""

import os
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
