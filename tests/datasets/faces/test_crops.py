from pathlib import Path

import albumentations as A  # noqa: N812
import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.alignment import ATTRIBUTE_TEMPLATE, Jitter, align_face, crop_face
from mobilevision.datasets.faces.crops import FaceCrop, RandomFaceCrop, mirrored
from mobilevision.datasets.images import ImageFile

CELEBA = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]], dtype=np.float32)


@pytest.fixture
def image() -> np.ndarray:
    y, x = np.mgrid[:218, :178]
    return np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8)


def test_crop_face__celeba_framing_at_full_size__is_the_image(image: np.ndarray) -> None:
    crop, points = crop_face(image, CELEBA, (218, 178))
    assert np.abs(crop.astype(int) - image).max() <= 1
    assert np.allclose(points, CELEBA, atol=1e-3)


def test_crop_face__square__is_align_face(image: np.ndarray) -> None:
    moved = CELEBA + np.array([3, -5])
    crop, _ = crop_face(image, moved, (112, 112))
    assert np.array_equal(crop, align_face(image, moved, 112, ATTRIBUTE_TEMPLATE))


def test_crop_face__narrower__is_the_middle_of_the_square(image: np.ndarray) -> None:
    square, _ = crop_face(image, CELEBA, (160, 160))
    narrow, points = crop_face(image, CELEBA, (160, 128))
    assert np.array_equal(narrow, square[:, 16:144])
    # By hand: (69 + 0.5 + 20) * 160 / 218 - 0.5 - 16 and (111 + 0.5) * 160 / 218 - 0.5.
    assert np.allclose(points[0], (49.1881, 81.3349), atol=1e-3)


def test_crop_face__turned_and_scaled_photograph__lands_on_the_same_points() -> None:
    angle, scale = np.deg2rad(25), 3.1
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = CELEBA @ turn.T + (400, 100)
    photograph = np.zeros((900, 1200, 3), np.uint8)
    _, points = crop_face(photograph, landmarks, (160, 128))
    _, expected = crop_face(np.zeros((218, 178, 3), np.uint8), CELEBA, (160, 128))
    assert np.allclose(points, expected, atol=1e-3)


ONE_UNKNOWN = np.concatenate([np.full((1, 2), np.nan), CELEBA[1:]])


@pytest.mark.parametrize("landmarks", [None, np.full((5, 2), np.nan), ONE_UNKNOWN])
def test_crop_face__no_landmarks__central_part(
    image: np.ndarray, landmarks: np.ndarray | None
) -> None:
    crop, points = crop_face(image, landmarks, (160, 128))
    aligned, _ = crop_face(image, CELEBA, (160, 128))
    assert np.isnan(points).all()
    assert np.abs(crop.astype(int) - aligned).max() <= 1  # CelebA's images are framed so


@pytest.mark.parametrize("axis", [0, 1])
def test_crop_face__no_landmarks_and_another_shape__largest_central_part(axis: int) -> None:
    long = np.arange(300) * 0.8
    ramp = np.repeat(long[None], 120, 0) if axis else np.repeat(long[:, None], 120, 1)
    image = np.repeat(ramp.round().astype(np.uint8)[..., None], 3, 2)
    crop, _ = crop_face(image, None, (60, 40))
    # Of 300 columns the middle 80 are seen, two in each pixel; of 300 rows the middle 180, three.
    step, first = (2, 110.5) if axis else (3, 61)
    expected = (first + step * np.arange(40 if axis else 60)) * 0.8
    along = crop[30, :, 0] if axis else crop[:, 20, 0]
    assert np.abs(along - expected).max() <= 1


def test_crop_face__jitter__moves_landmarks_with_the_pixels() -> None:
    image = np.zeros((218, 178, 3), np.uint8)
    for x, y in CELEBA.astype(int).tolist():
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    jitter = Jitter(turn_deg=12.0, scale=1.2, shift_xy=(0.03, -0.02))
    crop, points = crop_face(image, CELEBA, (160, 128), jitter)
    for x, y in points.round().astype(int).tolist():
        assert crop[y, x].min() > 150
    _, plain = crop_face(image, CELEBA, (160, 128))
    distance = np.linalg.norm(points[0] - points[1]) / np.linalg.norm(plain[0] - plain[1])
    assert distance == pytest.approx(1.2, abs=1e-5)


def test_mirrored__hand_calculated() -> None:
    crop = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    points = np.array([[0, 0], [3, 0], [1, 1], [0, 1], [2, 1]], dtype=np.float32)
    flipped, moved = mirrored(crop, points)
    assert np.array_equal(flipped[:, 0], crop[:, 3])
    assert moved.tolist() == [[0, 0], [3, 0], [2, 1], [1, 1], [3, 1]]


def test_random_face_crop__same_generator__same_crop(drawn_celeba: Path) -> None:
    image = ImageFile(drawn_celeba / "img_align_celeba" / "000001.jpg")
    transform = RandomFaceCrop((80, 64), photometric=A.RandomBrightnessContrast(p=1.0), erase_p=0.5)
    first, points = transform(image, CELEBA, np.random.default_rng(7))
    second, again = transform(image, CELEBA, np.random.default_rng(7))
    other, _ = transform(image, CELEBA, np.random.default_rng(8))
    assert first.shape == (80, 64, 3)
    assert np.array_equal(first, second)
    assert np.array_equal(points, again)
    assert not np.array_equal(first, other)


def test_random_face_crop__nothing_random__is_the_crop_of_evaluation(drawn_celeba: Path) -> None:
    image = ImageFile(drawn_celeba / "img_align_celeba" / "000001.jpg")
    still = RandomFaceCrop((80, 64), turn_deg=0, scale=(1, 1), shift=0, flip_p=0)
    crop, points = still(image, CELEBA, np.random.default_rng(0))
    plain, expected = FaceCrop((80, 64))(image, CELEBA, np.random.default_rng(0))
    assert np.array_equal(crop, plain)
    assert np.allclose(points, expected)


def test_random_face_crop__erasing__fills_a_rectangle_with_the_mean(drawn_celeba: Path) -> None:
    image = ImageFile(drawn_celeba / "img_align_celeba" / "000001.jpg")
    options = {"turn_deg": 0, "scale": (1, 1), "shift": 0, "flip_p": 0}
    erased, _ = RandomFaceCrop((80, 64), **options, erase_p=1.0)(
        image, CELEBA, np.random.default_rng(0)
    )
    plain, _ = FaceCrop((80, 64))(image, CELEBA, np.random.default_rng(0))
    changed = (erased != plain).any(axis=2)
    mean = plain.mean(axis=(0, 1)).round()
    assert 0.01 < changed.mean() < 0.2
    assert (erased[changed] == mean).all()


def test_random_face_crop__erasing__reaches_every_part_of_a_narrow_crop(drawn_celeba: Path) -> None:
    image = ImageFile(drawn_celeba / "img_align_celeba" / "000001.jpg")
    options = {"turn_deg": 0, "scale": (1, 1), "shift": 0, "flip_p": 0}
    erase = RandomFaceCrop((80, 40), **options, erase_p=1.0)
    plain, _ = FaceCrop((80, 40))(image, CELEBA, np.random.default_rng(0))
    ever = np.zeros((80, 40), bool)
    for seed in range(60):
        ever |= (erase(image, CELEBA, np.random.default_rng(seed))[0] != plain).any(axis=2)
    assert ever.mean() > 0.8
    assert ever[40:].mean() > 0.7


@pytest.mark.parametrize(
    "options",
    [{"turn_deg": -1}, {"scale": (1.1, 0.9)}, {"scale": (0, 1)}, {"shift": -0.1}, {"flip_p": 2},
     {"erase_p": -1}],
)  # fmt: skip
def test_random_face_crop__option_out_of_range__named(options: dict) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        RandomFaceCrop((80, 64), **options)


@pytest.mark.parametrize("size_hw", [(64, 80), (0, 0)])
def test_face_crop__wider_than_high_or_empty__refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="at least as high as wide"):
        FaceCrop(size_hw)


def test_random_face_crop__photometric_that_resizes__refused(drawn_celeba: Path) -> None:
    image = ImageFile(drawn_celeba / "img_align_celeba" / "000001.jpg")
    transform = RandomFaceCrop((80, 64), photometric=A.Resize(8, 8))
    with pytest.raises(DataError, match="photometric turned"):
        transform(image, CELEBA, np.random.default_rng(0))
