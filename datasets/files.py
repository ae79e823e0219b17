"""Writing files so that a reader never sees half of one."""

import os
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
