"""Videos frame by frame, read and written with OpenCV. Free of torch."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ..inference.images import MemoryPicture

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

    def frames(self) -> Iterator[MemoryPicture]:
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
                yield MemoryPicture(rgb, f"{self.path} frame {count}")
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
