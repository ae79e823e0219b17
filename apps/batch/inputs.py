"""Arguments of a command line as inputs: files, folders, patterns, URLs, cameras. No torch.

Also unique names for the output of each input.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from ...datasets.detection.image_checks import IMAGE_SUFFIXES
from ...datasets.errors import DataError
from ...datasets.images import URL_PREFIXES

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
"""Suffixes of videos, in lower case."""
STREAM_SUFFIXES = frozenset({".m3u8", ".mjpg", ".mjpeg"})
"""Suffixes of streams at http addresses, in lower case."""
STREAM_PREFIXES = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "rtp://", "srt://", "udp://")
_MOST_DIGITS = 9
"""Numbers of cameras fit 32 bits."""

Kind = Literal["image", "video", "stream"]


class InputFile(NamedTuple):
    """An image, a video or a stream."""

    path: Path
    """The file. Of an input without one, only the last part of its address counts."""
    name: str
    """By default relative to the folder that was given, or the name of the file that was given."""
    kind: Kind = "image"
    address: str = ""
    """URL or number of a camera; empty for files."""


def find_files(
    inputs: Sequence[str], leave_out: Path | None = None, addresses: bool = False
) -> list[InputFile]:
    """List the inputs of the arguments of a command line, each once, in order.

    A folder stands for the images and videos in it and its subfolders, sorted by name, without
    hidden and other files. A pattern such as ``photos/*.jpg`` or ``**/*.png`` stands for its
    matches, for shells that do not expand it. A single file may have any name.

    Args:
        inputs: Files, folders and patterns.
        leave_out: A folder to skip, such as that of the output.
        addresses: Take images, videos and streams at URLs, and numbers of cameras, too.

    Raises:
        DataError: An argument matches no file, a folder has neither images nor videos, the name
            of a file is not UTF-8, or an address cannot be reached to ask what is there.
    """
    found: dict[str, InputFile] = {}
    for file in walk_files(inputs, leave_out, addresses):
        found.setdefault(file.address or os.path.abspath(file.path), file)
    return list(found.values())


def walk_files(
    inputs: Sequence[str], leave_out: Path | None = None, addresses: bool = False
) -> Iterator[InputFile]:
    """Yield the inputs of ``find_files`` one by one, for more files than memory can hold.

    A file that two arguments match comes twice; the error of an argument is raised at its turn.
    """
    for argument in inputs:
        if addresses and _is_address(argument):
            yield _at_address(argument)
            continue
        for file in _files_of(argument, leave_out):
            _check_name(file.path)
            yield file


def _is_address(argument: str) -> bool:
    if Path(argument).exists():
        return Path(argument).is_char_device()  # such as /dev/video0
    is_camera = argument.isdecimal() and len(argument) <= _MOST_DIGITS
    return is_camera or argument.lower().startswith((*URL_PREFIXES, *STREAM_PREFIXES))


def _at_address(argument: str) -> InputFile:
    if "://" not in argument:
        name = f"camera{argument}" if argument.isdecimal() else Path(argument).name
        return InputFile(Path(name), name, "stream", argument)
    from ...datasets.download import without_password

    try:
        parts = urlsplit(argument)
    except ValueError as error:
        raise DataError(f"{without_password(argument)}: is no address ({error})") from error
    last = PurePosixPath(parts.path).name or parts.hostname or "stream"
    return InputFile(Path(last), last, _kind_of(argument, Path(last).suffix.lower()), argument)


def _kind_of(url: str, suffix: str) -> Kind:
    """Return what is at an address; the server is asked where the suffix does not tell."""
    if url.lower().startswith(STREAM_PREFIXES) or suffix in STREAM_SUFFIXES:
        return "stream"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    from ...datasets.download import content_type

    kind = content_type(url)
    if kind.startswith("multipart/") or "mpegurl" in kind:
        return "stream"
    return "video" if kind.startswith("video/") else "image"


def _check_name(path: Path) -> None:
    """Check that tables, JSON and messages can hold a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{str(path)!r}: the name has bytes that are not UTF-8. Rename the file or its folder."
        ) from error


def _files_of(argument: str, leave_out: Path | None) -> Iterable[InputFile]:
    path = Path(argument)
    if path.is_dir():
        return _files_of_folder(path, leave_out)
    if path.exists():
        return [_input_file(path, path.name)]
    matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
    if not matches:
        raise DataError(f"{argument}: no such file or folder, and no pattern that matches one.")
    folders = [Path(match) for match in matches if os.path.isdir(match)]
    files = [Path(match) for match in matches if not os.path.isdir(match)]
    if not files:
        return [file for folder in folders for file in _files_below(folder, leave_out)]
    return [_input_file(file, file.name) for file in files if not _is_below(file, leave_out)]


def _files_of_folder(folder: Path, leave_out: Path | None) -> Iterator[InputFile]:
    empty = True
    for file in _files_below(folder, leave_out):
        empty = False
        yield file
    if empty:
        raise DataError(
            f"{folder}: no images or videos in this folder. Suffixes are "
            f"{', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}; name other files one by one."
        )


def _files_below(folder: Path, leave_out: Path | None) -> Iterator[InputFile]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            known = path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
            if known and not name.startswith(".") and not _is_below(path, leave_out):
                yield _input_file(path, path.relative_to(folder).as_posix())


def _input_file(path: Path, name: str) -> InputFile:
    """Return a file, which is an image unless its suffix is that of a video."""
    return InputFile(path, name, "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image")


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and Path(os.path.abspath(path)).is_relative_to(folder.absolute())


def output_names(files: Iterable[InputFile], taken: Iterable[str] = ()) -> list[str]:
    """Return a unique name for the output of each file: its own without the suffix if possible.

    Args:
        files: The files.
        taken: Names that are in use.

    Returns:
        Relative paths without a suffix, in the order of the files, that do not lead out of the
        folder that they are joined to. They also differ where case does not matter.
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
