"""Results in a window, seen by a screenshot, and in files."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageGrab

from mobilevision.apps.batch.showing import Showing, Window
from mobilevision.apps.batch.videos import Frame, Video
from mobilevision.apps.inference.predictor import MemoryImage
from mobilevision.datasets.errors import DataError

SIDE = 120


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display that nobody sees."""
    pytest.importorskip("tkinter")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"]
    process = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as numbers:
        number = numbers.readline().strip()
    yield f":{number}"
    process.terminate()
    process.wait()


def screenshot(display: str) -> np.ndarray:
    return np.asarray(ImageGrab.grab(xdisplay=display).convert("RGB"))


def color(rgb: tuple[int, int, int], height: int = SIDE) -> np.ndarray:
    return np.full((height, SIDE, 3), rgb, np.uint8)


def share_of(shot: np.ndarray, rgb: tuple[int, int, int]) -> int:
    return int((shot == rgb).all(axis=2).sum())


def test_window__shows_one_image_after_the_other_until_closed(
    display: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    window = Window()
    window.show(color((250, 20, 30)), "first")
    window.show(color((250, 20, 30)), "first")  # mapped by now
    assert share_of(screenshot(display), (250, 20, 30)) == SIDE * SIDE
    window.show(color((20, 30, 250)), "second")
    shot = screenshot(display)
    assert share_of(shot, (20, 30, 250)) == SIDE * SIDE
    assert share_of(shot, (250, 20, 30)) == 0
    window.show(color((9, 250, 9), height=2000), "higher than the screen")
    assert 0 < share_of(screenshot(display), (9, 250, 9)) <= 480 * 640
    window._root.focus_force()
    window._root.after(50, lambda: window._root.event_generate("<Escape>"))
    late: list[bool] = []
    window._root.after(60_000, lambda: (late.append(True), window.close()))
    window.wait()
    assert window.closed
    assert not late, "Escape closes it"
    window.show(color((250, 20, 30)), "nothing happens")
    window.close()
    assert share_of(screenshot(display), (250, 20, 30)) == 0


def test_wait__after_a_frame__closes(display: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", display)
    window = Window()
    window.show(color((250, 20, 30)), "camera", moving=True)
    window.wait()
    assert window.closed


def test_window__no_display__says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(DataError, match="--show needs a display"):
        Window()


class Collecting:
    """A window that nobody sees."""

    def __init__(self) -> None:
        self.closed = False
        self.shown: list[tuple[np.ndarray, str]] = []

    def show(self, image: np.ndarray, title: str, moving: bool = False) -> None:
        assert moving == title.endswith("a second")
        self.shown.append((image, title))


def brighter(pixels: np.ndarray, by: int) -> np.ndarray:
    return pixels + np.uint8(by)


def test_showing__image__to_file_and_window(tmp_path: Path) -> None:
    window = Collecting()
    showing = Showing(brighter, tmp_path, window)  # type: ignore[arg-type]
    path = showing.path(3, "sub/a.png", ".jpg")
    assert path == tmp_path / "000003_a.jpg"
    showing.image(path, "a.png", MemoryImage(color((90, 90, 90))), 60)
    with Image.open(path) as image:
        assert np.asarray(image).mean() == pytest.approx(150, abs=1)
    ((shown, title),) = window.shown
    assert title == "a.png"
    assert shown.mean() == 150


def test_showing__nobody_looks__nothing_is_drawn() -> None:
    def refuse(*_: object) -> np.ndarray:
        raise AssertionError

    closed = Collecting()
    closed.closed = True
    for window in (None, closed):
        showing = Showing(refuse, None, window)  # type: ignore[arg-type]
        assert showing.path(1, "a.png", ".jpg") is None
        assert showing.closed == (window is closed)
        showing.image(None, "a", MemoryImage(color((1, 1, 1))), 0)
        with showing.video(None, "a", 10, live=True) as draw:
            draw(Frame(color((1, 1, 1)), "a", 0, 0.0), 0)


@pytest.mark.parametrize(("live", "levels"), [(False, [70, 120]), (True, [70, 120, 120, 120])])
def test_showing__video__a_live_one_keeps_its_time(
    tmp_path: Path, live: bool, levels: list[int]
) -> None:
    window = Collecting()
    showing = Showing(brighter, tmp_path, window)  # type: ignore[arg-type]
    path = showing.path(1, "clip.mp4", ".mp4")
    with showing.video(path, "clip.mp4", 10, live) as draw:
        draw(Frame(color((50, 50, 50)), "clip", 0, 0.0), 20)
        draw(Frame(color((100, 100, 100)), "clip", 5, 0.4), 20)
    found = [frame.read().mean() for frame in Video(tmp_path / "000001_clip.mp4").frames()]
    np.testing.assert_allclose(found, levels, atol=4)
    assert [image.mean() for image, _ in window.shown] == [70, 120]
    assert window.shown[1][1].startswith("clip.mp4: ")
    assert window.shown[1][1].endswith(" frames a second")
