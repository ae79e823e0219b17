"""One position for all faces."""

import cv2
import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.alignment import (
    ARCFACE_TEMPLATE,
    align_face,
    crop_box,
    fit_similarity,
    scaled_template,
    warp_face,
)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama 1991, equations 40 to 43, by singular values."""
    means = source.mean(0), target.mean(0)
    a, b = source - means[0], target - means[1]
    u, d, vt = np.linalg.svd(b.T @ a / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / (a**2).sum() * len(source)
    return np.column_stack([scale * rotation, means[1] - scale * rotation @ means[0]])


def test_fit_similarity__is_umeyamas_solution() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        source = rng.uniform(0, 200, (5, 2))
        expected = umeyama(source, ARCFACE_TEMPLATE)
        np.testing.assert_allclose(fit_similarity(source, ARCFACE_TEMPLATE), expected, atol=1e-9)


def test_fit_similarity__a_quarter_turn_twice_as_large() -> None:
    matrix = fit_similarity([[0, 0], [1, 0], [0, 1]], [[5, 5], [5, 7], [3, 5]])
    np.testing.assert_allclose(matrix, [[0, -2, 5], [2, 0, 5]], atol=1e-12)


@pytest.mark.parametrize("points", [[[3.0, 3.0]] * 5, [[np.nan, 0.0]] + [[1.0, 2.0]] * 4])
def test_fit_similarity__points_that_say_nothing(points: list[list[float]]) -> None:
    with pytest.raises(DataError, match=r"landmarks .*Correct or remove"):
        fit_similarity(np.array(points), ARCFACE_TEMPLATE)


def test_fit_similarity__one_target_that_is_no_place() -> None:
    target = ARCFACE_TEMPLATE.copy()
    target[3, 1] = np.nan
    with pytest.raises(DataError, match=r"landmarks .*Correct or remove"):
        fit_similarity(ARCFACE_TEMPLATE, target)


def test_align_face__is_warp_affine_onto_the_template() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)
    points = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]])
    expected = cv2.warpAffine(image, umeyama(points, ARCFACE_TEMPLATE), (112, 112))
    assert np.array_equal(align_face(image, points), expected)


def dots(points_xy: np.ndarray, size_hw: tuple[int, int], radius: float) -> np.ndarray:
    yy, xx = np.mgrid[: size_hw[0], : size_hw[1]]
    distance = np.hypot(xx[..., None] - points_xy[:, 0], yy[..., None] - points_xy[:, 1]).min(-1)
    grey = np.clip(255 * (radius + 0.5 - distance), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


@pytest.mark.parametrize("scale", [0.7, 3.3, 9.0])
@pytest.mark.parametrize("size", [96, 112, 160])
def test_align_face__landmarks_land_on_the_template_at_any_size(scale: float, size: int) -> None:
    turn = np.array([[0.96, -0.28], [0.28, 0.96]])
    points = ARCFACE_TEMPLATE @ turn.T * scale + (60 * scale, 20)
    image = dots(points, (int(170 * scale), int(200 * scale)), radius=4 * scale)
    crop = align_face(image, points, size)
    expected = dots(scaled_template(size), (size, size), radius=4 * size / 112)
    assert crop.shape == (size, size, 3)
    assert np.abs(crop.astype(int) - expected).mean() < 2.5
    spot = np.round(scaled_template(size)).astype(int)
    assert crop[spot[:, 1], spot[:, 0]].min() > 200


def test_align_face__a_large_face_is_averaged_and_not_sampled() -> None:
    checks = np.indices((1200, 1200)).sum(0) % 2 * 255
    image = np.repeat(checks.astype(np.uint8)[..., None], 3, 2)
    crop = align_face(image, ARCFACE_TEMPLATE * 8 + 100)
    assert np.abs(crop.astype(int) - 127).max() <= 2


def test_scaled_template__shows_what_the_resized_crop_shows() -> None:
    rng = np.random.default_rng(2)
    image = cv2.GaussianBlur(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8), (0, 0), 6)
    points = ARCFACE_TEMPLATE * 1.3 + 20
    resized = cv2.resize(align_face(image, points), (224, 224), interpolation=cv2.INTER_LINEAR)
    direct = align_face(image, points, 224)
    assert np.abs(resized.astype(int) - direct)[4:-4, 4:-4].max() <= 3


@pytest.mark.parametrize("size_hw", [(5, 500), (500, 5)])
def test_warp_face__image_thinner_than_the_averaged_blocks__is_shown(
    size_hw: tuple[int, int],
) -> None:
    tenth = np.array([[0.1, 0, 0], [0, 0.1, 0]])
    crop = warp_face(np.full((*size_hw, 3), 200, np.uint8), tenth, 32)
    seen = crop[0] if size_hw[0] < size_hw[1] else crop[:, 0]
    assert (seen == 200).all()
    assert crop[1:, 1:].max() == 0


def test_warp_face__a_crop_outside_the_image_is_black() -> None:
    image = np.full((50, 50, 3), 200, np.uint8)
    away = np.array([[0.1, 0, -4000.0], [0, 0.1, 0]])
    assert warp_face(image, away, 32).max() == 0


@pytest.mark.parametrize("margin", [0, 14, 32])
@pytest.mark.parametrize(
    "box", [[40.2, 30.7, 120.9, 140.1], [-8.0, -5.5, 60.0, 70.0], [150.0, 90.0, 230.0, 200.0]]
)
def test_crop_box__is_facenet_pytorchs(margin: int, box: list[float]) -> None:
    theirs = pytest.importorskip("facenet_pytorch")
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (20, 22, 3), dtype=np.uint8), (220, 200))
    expected = theirs.extract_face(Image.fromarray(pixels), np.array(box), 160, margin)
    ours = crop_box(pixels, np.array(box, np.float32), 160, margin)
    np.testing.assert_array_equal(ours, expected.permute(1, 2, 0).numpy().astype(np.uint8))


def test_crop_box__outside_of_the_image__is_its_nearest_pixel() -> None:
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    crop = crop_box(pixels, np.array([50.0, 50.0, 60.0, 60.0]), 16, 0)
    assert (crop == pixels[9, 9]).all()
