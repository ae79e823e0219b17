"""The grid: every image is in it, unharmed, with room for its caption."""

import numpy as np
import pytest

from mobilevision.apps.drawing import fit_image, make_grid


def plain(value: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("count", range(1, 14))
def test_make_grid__shows_every_image_whole(count: int) -> None:
    images = [plain(30 + index, 40 + index, 60 - index) for index in range(count)]
    grid = make_grid(images, [f"{index}.jpg" for index in range(count)], "title", 0.3)

    for index in range(count):
        rows, columns = np.where((grid == 30 + index).all(axis=2))
        block = grid[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (40 + index, 60 - index) <= block.shape[:2]
        assert (grid == 30 + index).all(axis=2).sum() >= (40 + index) * (60 - index)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (8, 4), (9, 3)])
def test_make_grid__columns(count: int, columns: int) -> None:
    grid = make_grid([plain(9, 300, 400)] * count, ["x"] * count, "", 0.5)

    assert grid.shape[1] == columns * (400 + 12) + 12


def test_make_grid__caption_lies_under_its_image() -> None:
    with_caption = make_grid([plain(9, 200, 300)] * 2, ["one.jpg", ""], "title", 0.3)
    without = make_grid([plain(9, 200, 300)] * 2, ["", ""], "title", 0.3)
    rows, columns = np.where((with_caption != without).any(axis=2))
    bottom = np.where((without == 9).all(axis=2).any(axis=1))[0].max()

    assert rows.min() > bottom
    assert columns.max() < 312


def test_make_grid__legend_tells_the_threshold() -> None:
    low, high = (make_grid([plain(9, 300, 400)], ["x"], "t", score) for score in (0.3, 0.75))

    assert low.shape == high.shape
    assert not np.array_equal(low, high)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (360, 480)),
        ((720, 480), (360, 240)),
        ((90, 240), (180, 480)),
        ((1, 900), (1, 480)),
    ],
)
def test_fit_image__fills_the_cell_and_keeps_the_shape(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image, scale = fit_image(plain(77, *size))

    assert image.shape == (*expected, 3)
    assert scale == pytest.approx(expected[1] / size[1])
    assert (image == 77).all()
