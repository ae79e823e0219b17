"""Outlines and how they are rasterised."""

import numpy as np
import pytest

from mobilevision.datasets.synthetic.scenes import CLASS_NAMES, SHAPES, ShapeClass, cover, place


def polygon_area(points: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def shape_named(name: str) -> ShapeClass:
    return SHAPES[CLASS_NAMES.index(name)]


def test_cover__square_on_pixel_corners__covers_exactly_those_pixels() -> None:
    square = np.array([[2.0, 3.0], [6.0, 3.0], [6.0, 5.0], [2.0, 5.0]])
    expected = np.zeros((8, 10), bool)
    expected[3:5, 2:6] = True
    np.testing.assert_array_equal(cover((square,), (8, 10)) >= 0.5, expected)


def test_cover__square_inside_a_square__is_a_hole() -> None:
    def square(half: float) -> np.ndarray:
        return np.array([[-half, -half], [half, -half], [half, half], [-half, half]]) + 20

    covered = cover((square(15), square(5)), (40, 40)) >= 0.5
    assert not covered[20, 20]
    assert covered[20, 8]
    assert covered.sum() == pytest.approx(30 * 30 - 10 * 10, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES, ids=CLASS_NAMES)
@pytest.mark.parametrize("rotation", [0.0, 0.7, 2.5])
def test_cover__every_shape__has_the_area_of_its_polygon(
    shape: ShapeClass, rotation: float
) -> None:
    polygons = place(
        shape.outline, center_xy=(80.0, 80.0), length=100.0, stretch=1.2, rotation=rotation
    )
    outer, *holes = (polygon_area(points) for points in polygons)
    assert cover(polygons, (160, 160)).sum() == pytest.approx(outer - sum(holes), rel=0.03)


@pytest.mark.parametrize("shape", SHAPES, ids=CLASS_NAMES)
def test_outline__every_shape__is_about_two_units_long(shape: ShapeClass) -> None:
    width, height = np.ptp(shape.outline[0], axis=0)
    assert 1.6 <= max(width, height) <= 2.1


def test_place__quarter_turn__turns_clockwise_on_the_screen() -> None:
    right = (np.array([[1.0, 0.0]]),)
    (placed,) = place(right, center_xy=(10.0, 20.0), length=8.0, stretch=1.0, rotation=np.pi / 2)
    np.testing.assert_allclose(placed, [[10.0, 24.0]], atol=1e-9)


def test_place__stretched__keeps_the_area() -> None:
    outline = shape_named("disk").outline
    plain, wide = (
        place(outline, center_xy=(0.0, 0.0), length=50.0, stretch=stretch, rotation=0.4)[0]
        for stretch in (1.0, 1.25)
    )
    assert polygon_area(wide) == pytest.approx(polygon_area(plain))


def test_crescent__middle__is_open() -> None:
    polygons = place(
        shape_named("crescent").outline,
        center_xy=(50.0, 50.0),
        length=80.0,
        stretch=1.0,
        rotation=0.0,
    )
    covered = cover(polygons, (100, 100)) >= 0.5
    assert covered[50, 25]
    assert not covered[50, 70]
