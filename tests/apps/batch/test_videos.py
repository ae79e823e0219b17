"""Videos: frames come back as they were written, and broken files say so."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.batch.videos import (
    Stream,
    StreamLostError,
    Video,
    ends_on_interrupt,
    mp4_writer,
    open_capture,
)
from mobilevision.datasets.errors import DataError


def write_video(path: Path, levels: list[int], size_hw: tuple[int, int] = (48, 64)) -> Path:
    with mp4_writer(path, fps=10) as writer:
        for level in levels:
            writer.write(np.full((*size_hw, 3), level, np.uint8))
    return path


def test_frames__written_and_read__same_images(tmp_path: Path) -> None:
    levels = [20, 90, 160, 230]
    video = Video(write_video(tmp_path / "a.mp4", levels))
    frames = [frame.read() for frame in video.frames()]
    assert (video.fps, video.declared_frames) == (10, 4)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 4
    np.testing.assert_allclose([frame.mean() for frame in frames], levels, atol=4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_frames__colors__are_rgb(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    with mp4_writer(tmp_path / "a.mp4", fps=5) as writer:
        writer.write(red)
    (frame,) = Video(tmp_path / "a.mp4").frames()
    np.testing.assert_allclose(frame.read().mean(axis=(0, 1)), [220, 0, 0], atol=12)


def test_video__no_video__says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a\.mp4: cannot be opened as a video"):
        Video(path)


def test_video__frames_of_more_pixels_than_the_limit__says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", [10, 20])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 - 1)
    with pytest.raises(DataError, match=r"a\.mp4: frames of 64x48 pixels"):
        Video(path)


def test_mp4_writer__body_raises__nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyError), mp4_writer(tmp_path / "a.mp4", fps=5) as writer:  # noqa: PT012
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_frames__fewer_than_declared__an_error_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Video(write_video(tmp_path / "a.mp4", [50] * 6))
    monkeypatch.setattr(video, "declared_frames", 60)
    frames = video.frames()
    assert len([next(frames) for _ in range(6)]) == 6
    with pytest.raises(DataError, match="ends after 6 of 60 frames"):
        next(frames)


def test_frames__numbers_and_times(tmp_path: Path) -> None:
    frames = list(Video(write_video(tmp_path / "a.mp4", [20, 90, 160])).frames())
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2])


def test_video__at_an_address__every_frame(server: tuple[str, Path]) -> None:
    url, folder = server
    write_video(folder / "clip.mp4", [20, 90, 160, 230])
    levels = [frame.read().mean() for frame in Video(f"{url}/clip.mp4").frames()]
    np.testing.assert_allclose(levels, [20, 90, 160, 230], atol=4)


def test_write__time_of_a_stream__frames_are_repeated_to_keep_it(tmp_path: Path) -> None:
    with mp4_writer(tmp_path / "a.mp4", fps=10) as writer:
        for level, time_s in ((50, 0.0), (100, 0.4), (150, 0.41), (200, 1.0)):
            writer.write(np.full((48, 64, 3), level, np.uint8), time_s)
    levels = [frame.read().mean() for frame in Video(tmp_path / "a.mp4").frames()]
    np.testing.assert_allclose(levels, [50] + [100] * 3 + [150] + [200] * 5, atol=4)


def test_stream__slow_reader__gets_the_newest_frame(camera: Callable[..., list[object]]) -> None:
    opened = camera(20)
    stream = Stream("0")
    assert (opened, stream.fps, stream.name) == ([0], 20, "camera 0")
    seen = []
    with pytest.raises(StreamLostError, match="camera 0: broke off after 20 frames"):  # noqa: PT012
        for frame in stream.frames():
            seen.append((frame.number, round(frame.read().mean()), frame.time_s))
            time.sleep(0.1)
    numbers, levels, times = zip(*seen, strict=True)
    assert numbers[0] == 0
    assert numbers[-1] == 19, "the last frame is not lost"
    assert stream.received == 20
    assert len(seen) < 20
    assert list(levels) == [10 + 10 * number for number in numbers]
    assert times[0] == 0
    assert list(times) == sorted(times)


def test_stream__breaks_off__is_opened_again(camera: Callable[..., list[object]]) -> None:
    opened = camera(2, 0, 3)
    stream = Stream("rtsp://user:secret@camera.local/live")
    with pytest.raises(StreamLostError, match="after 5 frames, and did not come back in 3") as lost:
        list(stream.frames())
    assert "secret" not in str(lost.value)
    assert "rtsp://camera.local/live" in str(lost.value)
    assert len(opened) == 6, "once, twice with success, and three times more"


def test_stream__stopped__ends_without_an_error(camera: Callable[..., list[object]]) -> None:
    camera(10**6)
    stream = Stream("1")
    for frame in stream.frames():
        if frame.number >= 2:
            stream.stop()
    assert stream.received >= 3


def test_stream__over_http__newest_frames(server: tuple[str, Path]) -> None:
    numbers = []
    for frame in Stream(f"{server[0]}/live").frames():
        numbers.append(frame.number)
        assert frame.read().shape == (48, 64, 3)
        if len(numbers) == 4:
            break
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("93", "camera 93: not there, or another program uses it"),
        ("rtsp://user:secret@127.0.0.1:9/x", "rtsp://127.0.0.1:9/x: cannot be opened.*password"),
        ("http://127.0.0.1:9/live.mjpg", "http://127.0.0.1:9/live.mjpg: cannot be opened"),
    ],
)
def test_open_capture__nothing_there__says_what_to_check(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_capture(source)


def interrupt() -> None:
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)


def test_ends_on_interrupt__first_stops_and_second_interrupts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The handlers are called: a raised signal has ended pytest-xdist's worker.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    stops: list[int] = []
    with ends_on_interrupt(lambda: stops.append(1)):
        interrupt()
        assert stops == [1]
        assert "ending the stream" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.signal(signal.SIGINT, inherited) is signal.default_int_handler
