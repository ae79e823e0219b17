"""Frames of videos, cameras and network streams, and videos that are written. No torch."""

import errno
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ...datasets.download import without_password
from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ..inference.predictor import MemoryImage

_DEFAULT_FPS = 25.0
_COUNT_TOLERANCE = 0.02
"""Containers derive the number of frames from duration and rate, which is not exact."""
_TIMEOUT_MS = 10_000
_WAITS_S = (1.0, 2.0, 4.0)
"""Waits before a stream that broke off is opened again, as long as it gives no frame."""


class StreamLostError(DataError):
    """A stream broke off; the frames before are as good as any."""


class Frame(MemoryImage):
    """A frame of a video or a stream.

    Attributes:
        number: From 0. Of a stream, frames that were left out count.
        time_s: Seconds from the first frame.
    """

    def __init__(self, pixels_bgr: np.ndarray, name: str, number: int, time_s: float) -> None:
        super().__init__(cv2.cvtColor(pixels_bgr, cv2.COLOR_BGR2RGB), f"{name} frame {number}")
        self.number = number
        self.time_s = time_s


def open_capture(source: str) -> cv2.VideoCapture:
    """Open a file, a URL or a camera by its number; network timeouts are ten seconds.

    Raises:
        DataError: It cannot be opened, or its frames have more pixels than an image may have.
    """
    name = without_password(source)
    if source.isdecimal():
        capture = cv2.VideoCapture(int(source))
    elif "://" in source:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
        options = [value for limit in limits for value in (limit, _TIMEOUT_MS)]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, options)
    else:
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        if source.isdecimal():
            raise DataError(f"camera {source}: not there, or another program uses it. Try 0 or 1.")
        remedy = "Check that it is whole and plays elsewhere"
        if "://" in source:
            remedy = "Check address, password and connection"
        raise DataError(f"{name}: cannot be opened as a video. {remedy}.")
    width, height = (
        int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise DataError(
            f"{name}: frames of {width}x{height} pixels; the file is damaged or made to "
            "exhaust the memory. If it is sound, scale it down, or set "
            "MOBILEVISION_MAX_PIXELS to more"
        )
    return capture


def _fps_of(capture: cv2.VideoCapture) -> float:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if np.isfinite(fps) and fps > 0 else _DEFAULT_FPS


class Video:
    """A video with an end, of which every frame is read.

    Args:
        source: A file or URL of any kind that OpenCV's FFmpeg reads.

    Attributes:
        fps: Frames per second; 25 if the file does not state it.
        declared_frames: Number of frames that the file states; 0 if it does not.

    Raises:
        DataError: See ``open_capture``.
    """

    live = False

    def __init__(self, source: str | Path) -> None:
        self.name = without_password(str(source))
        self._capture = open_capture(str(source))
        self.fps = _fps_of(self._capture)
        self.declared_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[Frame]:
        """Decode one frame after the other, with the rotation of the file applied.

        Raises:
            DataError: At the end, if there was no frame or fewer than the file states.
        """
        count = 0
        try:
            while True:
                there, pixels = self._capture.read()
                if not there:
                    break
                stated_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                time_s = stated_s if stated_s > 0 else count / self.fps
                yield Frame(pixels, self.name, count, time_s)
                count += 1
        finally:
            self._capture.release()
        missing = self.declared_frames - count
        if not count or missing > max(2, _COUNT_TOLERANCE * self.declared_frames):
            raise DataError(
                f"{self.name}: ends after {count} of {self.declared_frames} frames; it is cut "
                "short or broken. Restore the file from its source."
            )


class Stream:
    """A camera or a network stream, whose newest frame is read; older ones are left out.

    A thread receives all frames, so that none waits in a buffer. A stream that breaks off is opened
    again, three times in a row at the most.

    Args:
        source: URL, device, or number of a camera.

    Attributes:
        fps: Frames per second that it states; 25 if it does not.
        declared_frames: 0, for it has no end.
        received: Number of frames until now.

    Raises:
        DataError: See ``open_capture``.
    """

    live = True
    declared_frames = 0

    def __init__(self, source: str) -> None:
        self.source = source
        self.name = f"camera {source}" if source.isdecimal() else without_password(source)
        self._capture = open_capture(source)
        self.fps = min(_fps_of(self._capture), 60.0)  # some state their clock's rate
        self.received = 0
        self._newest: Frame | None = None
        self._news = threading.Condition()
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def stop(self) -> None:
        """End ``frames``, from any thread or a signal handler."""
        self._stopped.set()

    def frames(self) -> Iterator[Frame]:
        """Yield the newest frame whenever one is asked for, until the stream is stopped.

        Raises:
            StreamLostError: The stream broke off for good.
        """
        receiver = threading.Thread(target=self._receive, name="stream", daemon=True)
        receiver.start()
        try:
            while not self._stopped.is_set():
                with self._news:
                    self._news.wait(0.1)  # a signal handler cannot notify
                    frame, self._newest = self._newest, None
                if frame is not None:
                    yield frame
                elif not receiver.is_alive() and self._newest is None:
                    break
        finally:
            self.stop()
            receiver.join(_TIMEOUT_MS / 1000 + 1)
        if self._error is not None:
            raise self._error

    def _receive(self) -> None:
        begin, fruitless = time.monotonic(), 0
        try:
            while not self._stopped.is_set():
                there, pixels = self._capture.read()
                if there:
                    fruitless = 0
                    time_s = time.monotonic() - begin if self.received else 0.0
                    begin = begin if self.received else time.monotonic()
                    with self._news:
                        self._newest = Frame(pixels, self.name, self.received, time_s)
                        self.received += 1
                        self._news.notify()
                elif fruitless == len(_WAITS_S):
                    raise StreamLostError(
                        f"{self.name}: broke off after {self.received:,} frames, and did not come "
                        f"back in {fruitless} attempts. What was seen until then is kept."
                    )
                elif not self._stopped.wait(_WAITS_S[fruitless]):
                    fruitless += 1
                    self._reopen()
        except Exception as error:  # for the thread that reads the frames
            self._error = error
        finally:
            self._capture.release()

    def _reopen(self) -> None:
        self._capture.release()
        try:
            self._capture = open_capture(self.source)
        except DataError:
            return  # the next read fails


def open_frames(source: str, live: bool) -> Video | Stream:
    """Open a video or a stream."""
    return Stream(source) if live else Video(source)


@contextmanager
def ends_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C; the second one is as usual.

    Does nothing outside the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, usual)
        print("\nending the stream; Ctrl-C again aborts", file=sys.stderr)
        stop()

    usual = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


class Mp4Writer:
    """Writes frames to an MP4 file (MPEG-4 part 2); see ``mp4_writer``."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self.count = 0
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)

    def write(self, frame: np.ndarray, time_s: float | None = None) -> None:
        """Add a frame (H, W, 3) uint8 RGB; those of another size than the first are resized.

        With ``time_s`` it is repeated until the video has come to that time, so that it plays as
        fast as the stream whose frames were left out.

        Raises:
            DataError: This OpenCV cannot write MP4.
        """
        writer = self._writer or self._open(frame)
        if (frame.shape[1], frame.shape[0]) != self._size_wh:
            frame = cv2.resize(frame, self._size_wh, interpolation=cv2.INTER_AREA)
        pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        due = 1 if time_s is None else round(time_s * self.fps) - self.count
        for _ in range(max(1, due)):
            writer.write(pixels)
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
