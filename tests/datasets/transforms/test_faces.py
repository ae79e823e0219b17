from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile, fit_within, letterbox
from mobilevision.datasets.transforms.detection import Resize, SSDAugment
from mobilevision.datasets.transforms.faces import Letterbox, SquareCrop
from mobilevision.datasets.transforms.geometry import Objects
from mobilevision.datasets.transforms.quiet_albumentations import A

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
BOX = (60.0, 30.0, 140.0, 110.0)
POINTS = np.array([[80, 50], [120, 50], [100, 70], [85, 92], [115, 92]], np.float32)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> ImageFile:
    """A drawn face whose landmarks are dots of five colors."""
    picture = Image.new("RGB", (240, 160), "gray")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((60, 30, 139, 109), fill="white")
    for (x, y), color in zip(POINTS.tolist(), COLORS, strict=True):
        pen.rectangle((x - 4, y - 4, x + 3, y + 3), fill=color)
    path = tmp_path_factory.mktemp("faces") / "face.png"
    picture.save(path)
    return ImageFile(path)


def objects(points: np.ndarray | None = POINTS) -> Objects:
    return Objects(
        np.array([BOX], np.float32), np.zeros(1, np.int64), np.zeros(1, bool),
        None if points is None else points[None],
    )  # fmt: skip


def centers(pixels: np.ndarray) -> np.ndarray:
    """Where the dots of each color are, (5, 2)."""
    found = []
    for color in COLORS:
        rows, columns = (np.abs(pixels.astype(int) - color).sum(axis=2) < 90).nonzero()
        found.append((columns.mean() + 0.5, rows.mean() + 0.5))
    return np.array(found)


@pytest.mark.parametrize(
    ("size_hw", "input_hw", "expected"),
    [
        ((100, 200), (50, 50), (25, 50)),
        ((200, 100), (50, 50), (50, 25)),
        ((10, 20), (40, 40), (20, 40)),
        ((1, 1000), (64, 64), (1, 64)),
        ((333, 500), (640, 640), (426, 640)),
    ],
)
def test_fit_within__keeps_the_shape(size_hw, input_hw, expected) -> None:
    assert fit_within(size_hw, input_hw) == expected


def test_letterbox__fills_right_and_below() -> None:
    boxed = letterbox(np.full((10, 20, 3), 200, np.uint8), (40, 40), (1, 2, 3))
    assert (boxed[:20] == 200).all()
    assert (boxed[20:] == (1, 2, 3)).all()


def test_letterbox__moves_boxes_and_landmarks_with_the_pixels(image) -> None:
    pixels, moved = Letterbox((96, 96))(image, objects(), np.random.default_rng(0))
    assert pixels.shape == (96, 96, 3)
    assert (pixels[64:] == (123, 117, 104)).all()
    np.testing.assert_allclose(moved.boxes, np.array([BOX]) * 0.4)
    np.testing.assert_allclose(moved.landmarks[0], centers(pixels), atol=0.6)


def seen(transform, image, seed) -> tuple[np.ndarray, Objects]:
    return transform(image, objects(), np.random.default_rng(seed))


def test_square_crop__landmarks_stay_on_their_pixels(image) -> None:
    transform = SquareCrop((128, 128), photometric=A.NoOp())
    mirrored = 0
    for seed in range(12):
        pixels, moved = seen(transform, image, seed)
        assert len(moved.boxes) == 1
        actual = centers(pixels)
        flipped = bool(actual[0, 0] > actual[1, 0])
        mirrored += flipped
        order = [1, 0, 2, 4, 3] if flipped else [0, 1, 2, 3, 4]
        np.testing.assert_allclose(moved.landmarks[0], actual[order], atol=1.0)
        assert moved.landmarks[0, 0, 0] < moved.landmarks[0, 1, 0]
    assert 0 < mirrored < 12


def test_square_crop__has_a_whole_face_and_the_shape_of_the_image(image) -> None:
    transform = SquareCrop((160, 160), flip_p=0.0)
    sides = set()
    for seed in range(20):
        _, moved = seen(transform, image, seed)
        width, height = (moved.boxes[0, 2:] - moved.boxes[0, :2]).tolist()
        assert width == pytest.approx(height, abs=3)
        sides.add(round(width, -1))
    # 80 px of 128 and of 160 px, rarely of 96; smaller squares have no whole face.
    assert {100.0, 80.0} <= sides <= {130.0, 100.0, 80.0}


def test_square_crop__a_face_larger_than_any_square__letterboxes(image) -> None:
    wide = objects()._replace(boxes=np.array([[5.0, 5.0, 235.0, 155.0]], np.float32))
    pixels, moved = SquareCrop((120, 120), flip_p=0.0)(image, wide, np.random.default_rng(0))
    np.testing.assert_allclose(moved.boxes, [[2.5, 2.5, 117.5, 77.5]])
    assert (pixels[80:] == (123, 117, 104)).all()


@pytest.mark.parametrize("crowd", [True, False])
def test_square_crop__without_faces(image, crowd) -> None:
    faces = (
        objects()._replace(crowd=np.ones(1, bool)) if crowd else objects().select(np.zeros(0, int))
    )
    pixels, moved = SquareCrop((64, 64))(image, faces, np.random.default_rng(0))
    assert pixels.shape == (64, 64, 3)
    assert moved.landmarks is not None
    assert moved.landmarks.shape[1:] == (5, 2)


def test_square_crop__landmarks_that_are_not_annotated_stay_so(image) -> None:
    points = POINTS.copy()
    points[3] = np.nan
    _, moved = SquareCrop((64, 64), flip_p=1.0)(image, objects(points), np.random.default_rng(0))
    assert np.isnan(moved.landmarks[0]).all(axis=1).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(
    "transform", [Resize((80, 60)), SSDAugment((80, 60), photometric=A.NoOp())]
)
def test_other_transforms__move_landmarks_too(image, transform) -> None:
    for seed in range(5):
        pixels, moved = seen(transform, image, seed)
        if len(moved.boxes) and (pixels == 255).all(axis=2).sum() > 200:
            center = moved.landmarks[0].mean(axis=0)
            inside = (center > moved.boxes[0, :2] - 20) & (center < moved.boxes[0, 2:] + 20)
            assert inside.all()
    _, without = transform(image, objects(None), np.random.default_rng(0))
    assert without.landmarks is None


@pytest.mark.parametrize("options", [{"sides": ()}, {"sides": (1.2,)}, {"tries": 0}])
def test_square_crop__bad_option(options) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        SquareCrop((64, 64), **options)


def test_letterbox__bad_size() -> None:
    with pytest.raises(DataError, match="size_hw"):
        Letterbox((0, 64))


def test_letterbox__absent_image() -> None:
    with pytest.raises(DataError, match="no such file"):
        Letterbox((8, 8))(ImageFile(Path("none.jpg")), objects(), np.random.default_rng(0))
