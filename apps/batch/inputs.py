"""Arguments of a command line as files: images, videos, folders of them, patterns. No torch.

Also unique names for the output of each file, and reading and writing of videos.
"""

import errno
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ...datasets.detection.image_checks import IMAGE_SUFFIXES
from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ..inference.predictor import MemoryImage

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})
"""Suffixes of videos, in lower case."""


class InputFile(NamedTuple):
    """An input file."""

    path: Path
    name: str
    """By default relative to the folder that was given, or the name of the file that was given."""

    @property
    def is_video(self) -> bool:
        """Whether the suffix is that of a video; any other file is treated as an image."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_files(inputs: Sequence[str], leave_out: Path | None = None) -> list[InputFile]:
    """List the files of the arguments of a command line, each once, in order.

    A folder stands for the images and videos in it and its subfolders, sorted by name, without
    hidden and other files. A pattern such as ``photos/*.jpg`` or ``**/*.png`` stands for its
    matches, for shells that do not expand it. A single file may have any name.

    Args:
        inputs: Files, folders and patterns.
        leave_out: A folder to skip, such as that of the output.

    Raises:
        DataError: An argument matches no file, a folder has neither images nor videos, or the name
            of a file is not UTF-8.
    """
    found: dict[str, InputFile] = {}
    for file in walk_files(inputs, leave_out):
        found.setdefault(os.path.abspath(file.path), file)
    return list(found.values())


def walk_files(inputs: Sequence[str], leave_out: Path | None = None) -> Iterator[InputFile]:
    """Yield the files of ``find_files`` one by one, for more files than memory can hold.

    A file that two arguments match comes twice; the error of an argument is raised at its turn.
    """
    for argument in inputs:
        for file in _files_of(argument, leave_out):
            _check_name(file.path)
            yield file


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
        return [InputFile(path, path.name)]
    matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
    if not matches:
        raise DataError(f"{argument}: no such file or folder, and no pattern that matches one.")
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
                yield InputFile(path, path.relative_to(folder).as_posix())


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


_DEFAULT_FPS = 25.0
_COUNT_TOLERANCE = 0.02
"""Containers derive the number of frames from duration and rate, which is not exact."""


class Video:
    """A video file.

    Args:
        path: Any file that OpenCV's FFmpeg reads.

    Attributes:
        fps: Frames per second; 25 if the file does not state it.
        declared_frames: Number of frames that the file states; 0 if it does not.

    Raises:
        DataError: The file cannot be opened as a video, or its frames have more pixels than an
            image may have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise DataError(
                f"{path}: cannot be opened as a video. Check that it is whole and plays elsewhere."
            )
        width, height = (
            int(self._capture.get(side))
            for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise DataError(
                f"{path}: frames of {width}x{height} pixels; the file is damaged or made to "
                "exhaust the memory. If it is sound, scale it down, or set "
                "MOBILEVISION_MAX_PIXELS to more"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if np.isfinite(fps) and fps > 0 else _DEFAULT_FPS
        self.declared_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[MemoryImage]:
        """Decode one frame after the other, with the rotation of the file applied.

        Raises:
            DataError: At the end, if there was no frame or fewer than the file states.
        """
        count = 0
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    break
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                yield MemoryImage(rgb, f"{self.path} frame {count}")
                count += 1
        finally:
            self._capture.release()
        missing = self.declared_frames - count
        if not count or missing > max(2, _COUNT_TOLERANCE * self.declared_frames):
            raise DataError(
                f"{self.path}: ends after {count} of {self.declared_frames} frames; it is cut "
                "short or broken. Restore the file from its source."
            )


class Mp4Writer:
    """Writes frames to an MP4 file (MPEG-4 part 2); see ``mp4_writer``."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self.count = 0
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3) uint8 RGB; those of another size than the first are resized.

        Raises:
            DataError: This OpenCV cannot write MP4.
        """
        writer = self._writer or self._open(frame)
        if (frame.shape[1], frame.shape[0]) != self._size_wh:
            frame = cv2.resize(frame, self._size_wh, interpolation=cv2.INTER_AREA)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def _open(self, frame: np.ndarray) -> cv2.VideoWriter:
        self._size_wh = (frame.shape[1], frame.shape[0])
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self.path), code, self.fps, self._size_wh)
        if not self._writer.isOpened():
            raise DataError(
                f"{self.path}: OpenCV cannot write MP4 here. Install opencv-python-headless "
                "from its wheels, which include FFmpeg, or use --no-pictures."
            )
        return self._writer

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def mp4_writer(path: Path, fps: float) -> Iterator[Mp4Writer]:
    """Write an ``.mp4`` file that appears under its name when it is complete.

    Raises:
        OSError: The video could not be written completely, as on a full disk.
    """
    with replaced_atomically(path) as temporary:
        writer = Mp4Writer(temporary, fps)
        try:
            yield writer
        finally:
            writer.close()
        # OpenCV does not report a full disk.
        if writer.count:
            frames = cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT)
            if frames < writer.count:
                raise OSError(errno.ENOSPC, "the video was not written whole", str(temporary))
