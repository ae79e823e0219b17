"""Write files whole or not at all, or for their owner alone; read text, tables and arrays."""

import csv
import json
import logging
import ntpath
import os
import re
import shutil
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, SharedFilesWarning

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def is_shared(path: Path) -> bool:
    """Return whether an existing file or folder gives permissions to its group or to everybody.

    Always False on systems without such permissions (on Windows, a folder's access list
    decides).
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
    """Create an empty private file, or make a file private; raises as `make_private` does."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, PRIVATE_FILE))
    make_private(path)


def warn_if_shared(path: Path, what_now: str) -> None:
    """Warn if others can open an existing file that is about faces, and say what now."""
    if path.is_file() and is_shared(path):
        warnings.warn(f"{path}: others can open this file; {what_now}", SharedFilesWarning, 3)


def _all(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        yield path
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


def read_json(file: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file in UTF-8, -16 or -32; for ``object_hook`` see ``json.loads``.

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


def read_text(file: Path, what: str, fix: str = "Restore it from its source, in UTF-8.") -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Messages say ``what`` it should be, such as "list of names", and the remedy, ``fix``.

    Raises:
        DataError: The file is absent, cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable {what} ({error}). {fix}") from error


def read_csv(path: Path) -> list[list[str]]:
    """Read the rows of a csv file that are not blank; a `DataError` if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error


def open_table(path: Path) -> tuple[list[str], Callable[[str], Sequence[Any]]]:
    """Open a table with a heading: ``.parquet``, which needs pyarrow, or csv.

    Returns the names of the columns, and a function that reads the values of one of them; those
    of a csv are strings, stripped.

    Raises:
        DataError: The table is absent, unreadable or empty, or a line of a csv has another number
            of cells than the heading.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table")
    if path.suffix == ".parquet":
        parquet = import_parquet(path)
        try:
            table = parquet.read_table(path)
            table.validate(full=True)
        except Exception as error:  # pyarrow raises many kinds for a file of another format
            raise DataError(f"{path}: not a readable table in Parquet ({error})") from error
        return table.column_names, lambda name: table[name].to_pylist()
    rows = [[cell.strip() for cell in row] for row in read_csv(path)]
    if not rows:
        raise DataError(f"{path}: is empty; its first line should name the columns")
    heading = rows.pop(0)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(heading):
            raise DataError(f"{path}, line {number}: {len(row)} cells, not {len(heading)}")
    return heading, lambda name: [row[heading.index(name)] for row in rows]


def write_csv(path: Path, heading: Iterable[Any], rows: Iterable[Iterable[Any]]) -> None:
    """Write a csv file; numbers are written so that they read back the same."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)


def import_parquet(path: Path) -> Any:
    """Return ``pyarrow.parquet``; without pyarrow raise a `DataError` that names ``path``."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet needs pyarrow: pip install pyarrow, or use a .csv"
        ) from error
    return parquet


def check_unique(path: Path, names: Iterable[str]) -> None:
    """Raise a `DataError` if a table names a file more than once."""
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise DataError(f"{path}: {name} is there {count} times; keep one row for each file")


def check_files(path: Path, files: Sequence[str]) -> None:
    """Raise a `DataError` if a table has no rows, or names no file in a row or a file twice."""
    if not files:
        raise DataError(f"{path}: no rows")
    if "" in files:
        raise DataError(f"{path}: row {files.index('') + 1} after the heading names no file")
    check_unique(path, files)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file, see `replaced_atomically`."""
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replaced_atomically(path: Path, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, which takes the name of ``path`` at the end.

    Whoever opens ``path`` finds the old content or the new. The temporary file lies in the same
    folder, which is made if needed, has the same suffix, and is removed if the body raises. With
    ``private`` it is its owner's alone from the first byte on; if others can open the old one, a
    warning says so.

    Raises:
        OSError: The folder cannot be written, or nothing was written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    if private:
        warn_if_shared(path, "only you can open the new one")
    try:
        if private:
            create_private(temporary)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Replace a folder as `replaced_atomically` replaces a file.

    A folder cannot take the place of another in one step: the old one is moved aside, the new one
    takes its name, then the old one is removed. A reader finds the old one, the new one or, for an
    instant, none; never half of one.

    Raises:
        OSError: The folder cannot be written, or nothing was written; the old one is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (
        path.with_name(f".{path.stem}.{os.getpid()}.{kind}{path.suffix}") for kind in ("tmp", "old")
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
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


_log = logging.getLogger(__name__)

DRIVE = re.compile(r"[A-Za-z]:/|//")
"""Begins an absolute path of Windows, with slashes."""


def existing_files(paths: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return (N,) bool: whether each path exists; each folder is listed once, for speed."""
    listings: dict[str, set[str]] = {}
    exists = np.zeros(len(paths), dtype=bool)
    for index, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        exists[index] = name in listings[folder]
    return exists


class FileNames:
    """The files that an annotation file names, below one folder that its names are relative to.

    Backslashes are read as separators unless a file is really called so. Of an absolute path
    that does not exist, the last parts are looked for below the folder; ``foreign`` counts
    those found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.foreign = 0

    def locate(self, name: str) -> Path:
        """Return the path of a name; plain names are not checked for existence.

        Raises:
            ValueError: The name leads out of the folder.
        """
        if "\\" in name and not (self.folder / name).exists():
            name = name.replace("\\", "/")
        if os.path.isabs(name) or DRIVE.match(name):
            return self._absolute(name)
        if ".." in name.split("/") and os.path.normpath(name).split(os.sep)[0] == "..":
            raise ValueError(f"{name!r} leads out of the dataset")
        return self.folder / name

    def find(self, name: str) -> Path:
        """Return what `locate` does; of an absent name with folders, look for the last parts.

        Labeling tools write names relative to other folders than the one they export.
        """
        path = self.locate(name)
        if path.parent == self.folder or path.exists():
            return path
        return self._by_last_parts(path.relative_to(self.folder).parts[1:]) or path

    def locate_all(self, names: Iterable[str], source: Path) -> list[str]:
        """Return the paths of the names in the table ``source``, and warn of foreign ones.

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
        """Warn of paths of another machine or folder that were found elsewhere."""
        if self.foreign:
            _log.warning(
                f"{source}: {self.foreign:,} file names are paths of another machine or folder; "
                f"the files were found below {self.folder} by the last parts of their paths"
            )

    def _absolute(self, name: str) -> Path:
        path = Path(name)
        if path.is_absolute() and path.is_file():
            return path
        parts = [part for part in ntpath.splitdrive(name)[1].split("/") if part not in ("", "..")]
        return self._by_last_parts(parts) or self.folder / (parts[-1] if parts else "")

    def _by_last_parts(self, parts: Sequence[str]) -> Path | None:
        for first in range(len(parts)):
            candidate = self.folder.joinpath(*parts[first:])
            if candidate.is_file():
                self.foreign += 1
                return candidate
        return None


_UNSUSPICIOUS_BYTES = 2**30
_HIGHEST_RATIO = 200
"""Deflate shrinks zeros to a thousandth; names, positions and vectors hardly to a tenth."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file by name.

    Raises:
        DataError: The file is absent or damaged, holds objects or anything but arrays, or unpacks
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
