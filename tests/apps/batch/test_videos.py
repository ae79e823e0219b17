"""Videos: frames come back as they were written, and broken files say so."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.apps.batch.videos import Video, mp4_writer
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
