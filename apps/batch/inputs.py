"""Words of a command line as files: images and videos, folders of them, patterns. Free of torch.

What commands write for each file gets a name of its own, too.
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
"""Extensions, in lower case, of the files that count as videos."""


class InputFile(NamedTuple):
    """A file to work on."""

    path: Path
    name: str
    """Relative to the folder that was given, or the bare name of a file that was given."""

    @property
    def is_video(self) -> bool:
        """Whether its extension is that of a video; anything else is tried as an image."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_files(inputs: Sequence[str], leave_out: Path | None = None) -> list[InputFile]:
    """List the files that the words of a command line mean, each once, in their order.

    A folder stands for the images and videos in it and below it, by name; hidden ones and other
    files are left aside. A pattern such as ``photos/*.jpg`` or ``**/*.png`` stands for what it
    matches, for shells that do not expand it. A file is taken whatever it is called.

    Args:
        inputs: Files, folders and patterns.
        leave_out: A folder whose files are no input, such as that of the output.

    Raises:
        DataError: A word names nothing, a folder holds neither images nor videos, or the name of
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
            f"{folder}: no images or videos in this folder. Known are "
            f"{', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}; name others one by one."
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


_DEFAULT_FPS = 25.0
_COUNT_TOLERANCE = 0.02
"""Containers give the number of frames from duration and rate, which may be off a little."""


class Video:
    """A video file.

    Args:
        path: Any file that OpenCV's FFmpeg reads.

    Attributes:
        fps: Frames a second; 25 where the file does not say.
        declared_frames: Frames as the file declares them; 0 where it does not.

    Raises:
        DataError: The file cannot be opened as a video, or its frames have more pixels than one
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
        """Decode one frame after the other; rotation as the file declares it is applied.

        Raises:
            DataError: at the end, if there was no frame at all or fewer than the file declares.
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
    """Frames into an MP4 file (MPEG-4 part 2); give it to nobody before its end."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)
        self._count = 0

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3) uint8 RGB; all are of one size.

        Raises:
            DataError: This OpenCV cannot write MP4.
        """
        writer = self._writer or self._open(frame)
        if (frame.shape[1], frame.shape[0]) != self._size_wh:
            frame = cv2.resize(frame, self._size_wh, interpolation=cv2.INTER_AREA)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._count += 1

    def _open(self, frame: np.ndarray) -> cv2.VideoWriter:
        self._size_wh = (frame.shape[1], frame.shape[0])
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self.path), code, self.fps, self._size_wh)
        if not self._writer.isOpened():
            raise DataError(
                f"{self.path}: OpenCV cannot write MP4 here. Install opencv-python-headless "
                "from its wheels, which bring FFmpeg along, or use --no-pictures."
            )
        return self._writer

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """See whether the finished file has its frames: OpenCV is silent about a full disk.

        Raises:
            OSError: It has not.
        """
        if self._writer is not None:
            frames = cv2.VideoCapture(str(self.path)).get(cv2.CAP_PROP_FRAME_COUNT)
            if frames < self._count:
                raise OSError(errno.ENOSPC, "the video was not written whole", str(self.path))


@contextmanager
def mp4_writer(path: Path, fps: float) -> Iterator[Mp4Writer]:
    """Write a video that appears under its name when it is complete.

    Args:
        path: The file, ``.mp4``.
        fps: Frames a second.

    Raises:
        OSError: The video could not be written whole, as on a full disk.
    """
    with replaced_atomically(path) as temporary:
        writer = Mp4Writer(temporary, fps)
        try:
            yield writer
        finally:
            writer.close()
        writer.check()
