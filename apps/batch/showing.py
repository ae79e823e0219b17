"""Results drawn onto their images: shown in a window, written as images and videos. No torch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ..inference.predictor import ImageSource
from .videos import Frame, mp4_writer

JPEG_QUALITY = 92
_SHARE_OF_SCREEN = 0.85
_KEPT: list[Any] = []
"""Interpreters of Tcl, which aborts the process if another thread happens to free one."""


class Window:
    """A window that shows one image after the other; q, Escape or its button close it.

    It belongs to the main thread. tkinter draws it, because headless OpenCV has no windows.

    Args:
        title: The title of the window.

    Raises:
        DataError: There is no display, or Python was built without tkinter.
    """

    def __init__(self, title: str = "mobilevision") -> None:
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise DataError(
                "--show needs tkinter, which this Python lacks: install python3-tk or the like, or "
                "leave --show out"
            ) from error
        try:
            self._root = tkinter.Tk(className=title)
        except tkinter.TclError as error:
            raise DataError(
                f"--show needs a display ({error}). Leave it out: the pictures and videos that are "
                "written show the same"
            ) from error
        _KEPT.append(self._root)
        self._photo_of = ImageTk.PhotoImage
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self.close())
        self.closed = self._moving = False

    def show(self, image: np.ndarray, title: str, moving: bool = False) -> None:
        """Show an image (H, W, 3) uint8 RGB, scaled down to the screen; nothing once closed.

        ``moving`` says that it is a frame, after which ``wait`` does not wait.
        """
        if self.closed:
            return
        self._moving = moving
        picture = Image.fromarray(image)
        screen = (self._root.winfo_screenwidth(), self._root.winfo_screenheight())
        picture.thumbnail((screen[0] * _SHARE_OF_SCREEN, screen[1] * _SHARE_OF_SCREEN))
        self._photo = self._photo_of(picture, master=self._root)  # Tk itself keeps no reference
        self._label.configure(image=self._photo)
        self._root.title(title)
        self._root.update()

    def wait(self) -> None:
        """Leave an image until the window is closed; after a frame, close it."""
        if self._moving:
            self.close()
        while not self.closed:
            self._root.update()
            time.sleep(0.03)

    def close(self) -> None:
        """Close the window."""
        if not self.closed:
            self.closed = True
            self._root.destroy()


class Showing:
    """Draws the results of a job onto their images, where somebody wants to see them.

    Args:
        draw: The image (H, W, 3) uint8 RGB and its result to an annotated image.
        folder: Folder for ``<number>_<name>.jpg`` and ``.mp4``, or None.
        window: The window, or None.
    """

    def __init__(
        self,
        draw: Callable[[np.ndarray, Any], np.ndarray],
        folder: Path | None = None,
        window: Window | None = None,
    ) -> None:
        self.draw = draw
        self.folder = folder
        self.window = window

    @property
    def closed(self) -> bool:
        """Whether there was a window and somebody has closed it."""
        return self.window is not None and self.window.closed

    def path(self, position: int, name: str, suffix: str) -> Path | None:
        """Return the file for an input's annotated image or video; None without a folder."""
        stem = f"{position:06d}_{Path(name).stem}"
        return None if self.folder is None else self.folder / f"{stem}{suffix}"

    def image(self, path: Path | None, name: str, image: ImageSource, result: Any) -> None:
        """Draw the result of an image, which is read again, to a file, to the window, or both."""
        if path is None and not self._visible:
            return
        drawn = self.draw(image.read(), result)
        if path is not None:
            with replaced_atomically(path) as temporary:
                Image.fromarray(drawn).save(temporary, quality=JPEG_QUALITY)
        if self.window is not None:
            self.window.show(drawn, name)

    @contextmanager
    def video(
        self, path: Path | None, name: str, fps: float, live: bool
    ) -> Iterator[Callable[[Frame, Any], None]]:
        """Draw the results of frames; a file is complete at the end, and absent before.

        Yields a function of a frame and its result.
        """
        begin, count = time.monotonic(), 0

        def add(frame: Frame, result: Any) -> None:
            nonlocal count
            if writer is None and not self._visible:
                return
            drawn = self.draw(frame.read(), result)
            if writer is not None:
                writer.write(drawn, frame.time_s if live else None)
            if self.window is not None:
                count += 1
                rate = count / max(time.monotonic() - begin, 1e-3)
                self.window.show(drawn, f"{name}: {rate:.1f} frames a second", moving=True)

        with nullcontext() if path is None else mp4_writer(path, fps) as writer:
            yield add

    @property
    def _visible(self) -> bool:
        return self.window is not None and not self.window.closed
