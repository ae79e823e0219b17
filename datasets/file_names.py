"""File names as annotation files have them: of other systems, other machines, or hostile.

Free of torch.
"""

import logging
import ntpath
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .errors import DataError

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
