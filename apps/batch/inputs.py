"""Words of a command line as files: pictures and videos, folders of them, patterns. Free of torch.

What commands write for each file gets a name of its own, too.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...datasets.detection.image_checks import PICTURE_SUFFIXES
from ...datasets.errors import DataError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
"""Extensions, in lower case, of the files that count as videos."""


class InputFile(NamedTuple):
    """A file to work on."""

    path: Path
    name: str
    """Relative to the folder that was given, or the bare name of a file that was given."""

    @property
    def is_video(self) -> bool:
        """Whether its extension is that of a video; anything else is tried as a picture."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_files(inputs: Sequence[str], leave_out: Path | None = None) -> list[InputFile]:
    """List the files that the words of a command line mean, each once, in their order.

    A folder stands for the pictures and videos in it and below it, by name; hidden ones and other
    files are left aside. A pattern such as ``photos/*.jpg`` or ``**/*.png`` stands for what it
    matches, for shells that do not expand it. A file is taken whatever it is called.

    Args:
        inputs: Files, folders and patterns.
        leave_out: A folder whose files are no input, such as that of the output.

    Raises:
        DataError: A word names nothing, a folder holds neither pictures nor videos, or the name of
            a file is not UTF-8.
    """
    found: dict[str, InputFile] = {}
    for file in walk_files(inputs, leave_out):
        found.setdefault(os.path.abspath(file.path), file)
    return list(found.values())


def walk_files(inputs: Sequence[str], leave_out: Path | None = None) -> Iterator[InputFile]:
    """As ``find_files``, one by one, for more files than should be held in memory.

    A file that two words mean comes twice, and the error of a word comes when it is its turn.
    """
    for word in inputs:
        for file in _files_of(word, leave_out):
            _check_name(file.path)
            yield file


def _check_name(path: Path) -> None:
    """Insist on a path that tables, JSON and messages can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{str(path)!r}: the name has bytes that are not UTF-8. Rename the file or its folder."
        ) from error


def _files_of(word: str, leave_out: Path | None) -> Iterable[InputFile]:
    path = Path(word)
    if path.is_dir():
        return _files_of_folder(path, leave_out)
    if path.exists():
        return [InputFile(path, path.name)]
    matches = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) else []
    if not matches:
        raise DataError(f"{word}: no such file or folder, and no pattern that matches one.")
    folders = [Path(match) for match in matches if os.path.isdir(match)]
    files = [Path(match) for match in matches if not os.path.isdir(match)]
    if not files:
        return [file for folder in folders for file in _files_below(folder, leave_out)]
    return [InputFile(file, file.name) for file in files if not _is_below(file, leave_out)]


def _files_of_folder(folder: Path, leave_out: Path | None) -> Iterator[InputFile]:
    empty = True
    for file in _files_below(folder, leave_out):
        empty = False
        yield file
    if empty:
        raise DataError(
            f"{folder}: no pictures or videos in this folder. Known are "
            f"{', '.join(sorted(PICTURE_SUFFIXES | VIDEO_SUFFIXES))}; name others one by one."
        )


def _files_below(folder: Path, leave_out: Path | None) -> Iterator[InputFile]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            known = path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
            if known and not name.startswith(".") and not _is_below(path, leave_out):
                yield InputFile(path, path.relative_to(folder).as_posix())


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and Path(os.path.abspath(path)).is_relative_to(folder.absolute())


def output_names(files: Iterable[InputFile], taken: Iterable[str] = ()) -> list[str]:
    """A name for what is written for each file: its own without the extension, and never the same.

    Args:
        files: The files.
        taken: Names that are in use.

    Returns:
        Relative paths without an extension, in the order of the files; they stay below the folder
        that they are joined to.
    """
    used = {name.casefold() for name in taken}
    names = []
    for file in files:
        inside = [part for part in Path(file.name).parts if part not in ("..", os.sep)]
        whole = "/".join(inside)
        name = whole.removesuffix(file.path.suffix)
        number = 1
        while name.casefold() in used:
            name = whole if number == 1 else f"{whole}-{number}"
            number += 1
        used.add(name.casefold())
        names.append(name)
    return names
