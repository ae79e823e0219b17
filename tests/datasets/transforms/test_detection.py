"""Where boxes and pixels end up, what crops are accepted, and that a seed fixes every bit."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import albumentations as A  # noqa: N812
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as v2

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.transforms.color import ColorDistortion, color_matrix
from mobilevision.datasets.transforms.detection import (
    AlbumentationsPipeline,
    Objects,
    Resize,
    SSDAugment,
    Transform,
)
from mobilevision.datasets.transforms.geometry import (
    CropRule,
    _iou,
    place,
    sample_crop,
    sample_expansion,
    whole,
)

COLORS = np.array([[230, 30, 30], [30, 210, 40], [40, 50, 240]], np.uint8)
BACKGROUND = 128
FILL = (0, 0, 0)
PLAIN = {"photometric": A.NoOp(), "fill_rgb": FILL}
"""Keeps the drawn colors, so that they can be found again."""


def objects(boxes: list[list[float]], crowd: list[bool] | None = None) -> Objects:
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(len(boxes), dtype=np.int64),
        np.array(crowd or [False] * len(boxes), np.bool_),
    )


def write(folder: Path, pixels: np.ndarray, name: str = "picture.jpg") -> ImageFile:
    Image.fromarray(pixels).save(folder / name, quality=98, subsampling=0)
    return ImageFile(folder / name)


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


@pytest.fixture
def three_rectangles(tmp_path: Path) -> tuple[ImageFile, Objects]:
    """A 640x480 image of three apart rectangles; label i has COLORS[i]."""
    boxes = [[52, 70, 201, 233], [300, 41, 590, 180], [260, 250, 407, 443]]
    pixels = blank(480, 640)
    for (x0, y0, x1, y1), color in zip(boxes, COLORS, strict=True):
        pixels[y0:y1, x0:x1] = color
    return write(tmp_path, pixels), objects([list(map(float, box)) for box in boxes])


def drawn_extent(pixels: np.ndarray, color: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Where a rectangle of this color is, xyxy, to a fraction of a pixel.

    Looks along the row and the column through the middle of the box it is expected in.
    """
    x, y = ((box[:2] + box[2:]) / 2).astype(int)
    (x0, x1), (y0, y1) = (edges(line, color) for line in (pixels[y], pixels[:, x]))
    return np.array([x0, y0, x1, y1])


def edges(line: np.ndarray, color: np.ndarray) -> tuple[float, float]:
    """Start and end of the color on a line (n, 3); a half-covered pixel counts a half."""
    direction = color.astype(float) - BACKGROUND
    share = ((line.astype(float) - BACKGROUND) @ direction / (direction @ direction)).clip(0, 1)
    # Other colors and the fill lie off the way from the background to this color.
    off = np.abs(line - (BACKGROUND + share[:, None] * direction)).max(axis=1)
    share[off > 25] = 0
    inside = np.flatnonzero(share > 0.9)
    first, last = inside[0], inside[-1]
    before, behind = share[max(first - 5, 0) : first].sum(), share[last + 1 : last + 6].sum()
    return first - before, last + 1 + behind


# Resize


def test_resize__pixels_as_torchvision_antialiased(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = write(tmp_path, rng.integers(0, 256, (97, 143, 3), dtype=np.uint8), "noise.png")
    pixels, _ = Resize((60, 50))(image, objects([]), rng)
    tensor = torch.from_numpy(image.read()).permute(2, 0, 1)
    expected = v2.resize(tensor, [60, 50], antialias=True).permute(1, 2, 0).numpy()
    assert pixels.shape == (60, 50, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_resize__boxes_scaled_and_all_kept(tmp_path: Path) -> None:
    image = write(tmp_path, blank(100, 200))
    given_objects = objects(
        [[20, 10, 40, 30], [0, 0, 200, 100], [3, 3, 3.5, 3.5]], [False, True, False]
    )
    _, moved = Resize((300, 300))(image, given_objects, np.random.default_rng(0))
    assert moved.boxes.tolist() == [[30, 30, 60, 90], [0, 0, 300, 300], [4.5, 9, 5.25, 10.5]]
    assert moved.boxes.dtype == np.float32
    assert moved.labels.tolist() == [0, 1, 2]
    assert moved.crowd.tolist() == [False, True, False]


# Geometry


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_iou__as_torchvision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (np.sort(rng.uniform(0, 50, (n, 2, 2)), axis=1).reshape(n, 4) for n in (5, 7))
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(_iou(first, second), expected, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), min_iou=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9]))
def test_sample_crop__keeps_its_rule(seed: int, min_iou: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(0, 1, (3, 2, 2)), axis=1).reshape(3, 4) * [90, 60, 90, 60]
    canvas = sample_expansion((60, 90), 4.0, rng)
    rule = CropRule(min_iou, (0.3, 1.0), (0.5, 2.0), 50)
    crop = sample_crop(canvas, (60, 90), boxes, rule, rng)
    if crop == canvas:
        return
    left, top, right, bottom = crop
    assert canvas[0] <= left < right <= canvas[2] + 1e-9
    assert canvas[1] <= top < bottom <= canvas[3] + 1e-9
    w, h = (right - left) / (canvas[2] - canvas[0]), (bottom - top) / (canvas[3] - canvas[1])
    assert 0.5 - 1e-9 <= w / h <= 2 + 1e-9
    assert 0.3 - 1e-9 <= np.sqrt(w * h) <= 1 + 1e-9
    ious = box_iou(torch.tensor([crop], dtype=torch.float64), torch.from_numpy(boxes))
    assert ious.max() >= min_iou
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert ((centers >= [left, top]) & (centers < [right, bottom])).all(axis=1).any()


def test_sample_crop__usually_found_where_asked_little() -> None:
    rng = np.random.default_rng(0)
    rule = CropRule(0.1, (0.3, 1.0), (0.5, 2.0), 50)
    boxes = np.array([[20.0, 20.0, 60.0, 50.0]])
    crops = [sample_crop(whole((60, 90)), (60, 90), boxes, rule, rng) for _ in range(100)]
    assert sum(crop == whole((60, 90)) for crop in crops) == 0


def test_sample_crop__wide_image__its_right_part_shows_the_image() -> None:
    """The canvas is four times the image; only a crop that touches the image is accepted."""
    rule = CropRule(min_iou=0.0, side=(0.2, 0.3), aspect=(0.5, 2.0), tries=50)
    rng = np.random.default_rng(0)
    height, width = 40, 400
    none = np.zeros((0, 4))
    crops = [sample_crop((0, 0, 400, 160), (height, width), none, rule, rng) for _ in range(300)]
    lefts, tops = np.array(crops)[:, :2].T
    assert tops.max() <= height - 1
    assert lefts.max() > 250


def test_sample_crop__impossible_leaves_the_canvas() -> None:
    rule = CropRule(0.9, (0.3, 1.0), (0.5, 2.0), 50)
    boxes = np.array([[10.0, 10.0, 12.0, 12.0]])
    crop = sample_crop(whole((60, 90)), (60, 90), boxes, rule, np.random.default_rng(0))
    assert crop == whole((60, 90))


def test_sample_expansion__sixteen_times_the_area_at_most() -> None:
    rng = np.random.default_rng(0)
    canvases = np.array([sample_expansion((50, 80), 4.0, rng) for _ in range(500)])
    assert (canvases[:, :2] <= 0).all()
    assert (canvases[:, 2:] >= [80, 50]).all()
    ratios = (canvases[:, 2:] - canvases[:, :2]) / [80, 50]
    np.testing.assert_allclose(ratios[:, 0], ratios[:, 1])
    assert 1 <= ratios.min() < 1.1
    assert 3.9 < ratios.max() <= 4


@pytest.mark.parametrize(
    ("crop", "mirror", "box", "expected"),
    [
        ((0, 0, 200, 100), False, [20, 10, 40, 30], [10, 10, 20, 30]),
        ((0, 0, 200, 100), True, [20, 10, 40, 30], [80, 10, 90, 30]),
        ((50, 50, 100, 100), False, [60, 40, 90, 70], [20, 0, 80, 40]),
        ((-200, -100, 200, 100), False, [0, 0, 100, 100], [50, 50, 75, 100]),
        ((-200, -100, 200, 100), True, [0, 0, 100, 100], [25, 50, 50, 100]),
    ],
)
def test_place__hand_calculated(
    crop: tuple[float, float, float, float], mirror: bool, box: list[float], expected: list[float]
) -> None:
    placement = place(
        crop, (100, 200), (100, 100), mirror=mirror, reductions=(1, 2), min_resolution=1.0
    )
    assert placement.move(np.array([box], np.float32)).tolist() == [expected]


@pytest.mark.parametrize(
    ("image_hw", "min_resolution", "expected"),
    [((480, 640), 1.0, 1), ((480, 640), 0.7, 2), ((600, 600), 1.0, 2), ((599, 800), 1.0, 1),
     ((3000, 4000), 1.0, 8), ((100, 100), 0.7, 1), ((300, 9000), 1.0, 1)],
)  # fmt: skip
def test_place__decodes_no_larger_than_needed(
    image_hw: tuple[int, int], min_resolution: float, expected: int
) -> None:
    placement = place(
        whole(image_hw), image_hw, (300, 300),
        mirror=False, reductions=(1, 2, 4, 8), min_resolution=min_resolution,
    )  # fmt: skip
    assert placement.reduce == expected


# SSDAugment


@pytest.mark.parametrize(("max_reduce", "min_resolution"), [(1, 0.7), (2, 0.5), (8, 0.7)])
def test_ssd_augment__boxes_stay_around_what_was_drawn(
    three_rectangles: tuple[ImageFile, Objects], max_reduce: int, min_resolution: float
) -> None:
    image, given_objects = three_rectangles
    augment = SSDAugment((300, 300), max_reduce=max_reduce, min_resolution=min_resolution, **PLAIN)
    errors = []
    for seed in range(150):
        pixels, moved = augment(image, given_objects, np.random.default_rng(seed))
        for box, label in zip(moved.boxes, moved.labels, strict=True):
            if min(box[2:] - box[:2]) >= 12:
                errors.append(drawn_extent(pixels, COLORS[label], box) - box)
    assert len(errors) > 200
    assert np.abs(errors).max() < 0.5
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06


def test_ssd_augment__color_tells_the_label(three_rectangles: tuple[ImageFile, Objects]) -> None:
    image, given_objects = three_rectangles
    shuffled = given_objects.select(np.array([2, 0, 1]))
    seen = 0
    for seed in range(60):
        pixels, moved = SSDAugment((300, 300), **PLAIN)(
            image, shuffled, np.random.default_rng(seed)
        )
        for box, label in zip(moved.boxes, moved.labels, strict=True):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            distance = np.abs(COLORS.astype(int) - pixels[y, x]).sum(axis=1)
            assert distance.argmin() == label
            seen += 1
    assert seen > 60


@settings(max_examples=80, deadline=None)
@given(
    size=st.sampled_from([(1, 1), (3, 3000), (700, 2), (37, 53), (400, 300), (2, 2)]),
    count=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_ssd_augment__boxes_within_and_consistent(
    size: tuple[int, int], count: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    image = write(tmp_path_factory.mktemp("any"), blank(*size))
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4)
    boxes = corners * [size[1], size[0], size[1], size[0]]
    crowd = rng.random(count) < 0.3
    given_objects = objects(boxes.tolist(), crowd.tolist())
    pixels, moved = SSDAugment((120, 90))(image, given_objects, rng)
    assert pixels.shape == (120, 90, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert (moved.boxes >= 0).all()
    assert (moved.boxes <= [90, 120, 90, 120]).all()
    assert (moved.boxes[:, 2:] - moved.boxes[:, :2] >= 1).all()
    assert (moved.boxes.dtype, moved.labels.dtype, moved.crowd.dtype) == (
        "float32",
        "int64",
        "bool",
    )
    assert sorted(set(moved.labels.tolist())) == moved.labels.tolist()
    assert moved.crowd.tolist() == crowd[moved.labels].tolist()


def test_ssd_augment__all_off_is_a_resize(three_rectangles: tuple[ImageFile, Objects]) -> None:
    image, given_objects = three_rectangles
    augment = SSDAugment((480, 640), expand_p=0, crop_min_iou=(None,), flip_p=0, **PLAIN)
    pixels, moved = augment(image, given_objects, np.random.default_rng(0))
    np.testing.assert_array_equal(pixels, image.read())
    np.testing.assert_array_equal(moved.boxes, given_objects.boxes)


def test_ssd_augment__defaults__half_are_mirrored_and_half_expanded(tmp_path: Path) -> None:
    image = write(tmp_path, blank(30, 60))
    given_objects = objects([[0, 0, 20, 30]])
    augment = SSDAugment((30, 60), crop_min_iou=(None,), **PLAIN)
    mirrored = expanded = 0
    rng = np.random.default_rng(0)
    for _ in range(1000):
        _, moved = augment(image, given_objects, rng)
        left, _, right, bottom = moved.boxes[0]
        if bottom - moved.boxes[0][1] < 30:
            expanded += 1
        else:
            mirrored += (left, right) == (40, 60)
    assert expanded == pytest.approx(500, abs=50)
    assert mirrored / (1000 - expanded) == pytest.approx(0.5, abs=0.06)


def test_ssd_augment__expansion__grows_both_sides_alike(tmp_path: Path) -> None:
    image = write(tmp_path, blank(30, 90))
    augment = SSDAugment((300, 900), expand_p=1, crop_min_iou=(None,), flip_p=0, **PLAIN)
    for seed in range(20):
        _, moved = augment(image, objects([[0, 0, 90, 30]]), np.random.default_rng(seed))
        width, height = moved.boxes[0][2:] - moved.boxes[0][:2]
        assert width / height == pytest.approx(3, abs=0.1)
        assert 225 <= round(width) <= 900


def test_ssd_augment__flip_mirrors_pixels_and_boxes(
    three_rectangles: tuple[ImageFile, Objects],
) -> None:
    image, given_objects = three_rectangles
    augment = SSDAugment((480, 640), expand_p=0, crop_min_iou=(None,), flip_p=1, **PLAIN)
    pixels, moved = augment(image, given_objects, np.random.default_rng(0))
    np.testing.assert_array_equal(pixels, image.read()[:, ::-1])
    assert moved.boxes[0].tolist() == [640 - 201, 70, 640 - 52, 233]


def test_ssd_augment__canvas_keeps_the_mean_color(tmp_path: Path) -> None:
    image = write(tmp_path, np.full((60, 80, 3), 255, np.uint8))
    augment = SSDAugment((90, 90), expand_p=1, crop_min_iou=(None,), fill_rgb=(12, 34, 56))
    pixels, moved = augment(image, objects([[0, 0, 80, 60]]), np.random.default_rng(3))
    x0, y0, x1, y1 = moved.boxes[0].astype(int)
    outside = np.ones((90, 90), bool)
    outside[y0:y1, x0:x1] = False
    assert outside.sum() > 1000
    assert (pixels[outside] == [12, 34, 56]).all()
    assert (pixels[y0:y1, x0:x1] != [12, 34, 56]).any(axis=-1).all()


def test_ssd_augment__object_leaves_with_its_center(tmp_path: Path) -> None:
    image = write(tmp_path, blank(100, 100))
    given_objects = objects(
        [[0, 0, 100, 100], [0, 0, 20, 20], [0, 0, 100, 100]], [False, False, True]
    )
    augment = SSDAugment(
        (100, 100), expand_p=0, crop_min_iou=(0.0,), crop_side=(0.5, 0.5), flip_p=0
    )
    crop_starts = set()
    for seed in range(60):
        _, moved = augment(image, given_objects, np.random.default_rng(seed))
        crop = augment._sample((100, 100), given_objects.boxes[:2], np.random.default_rng(seed))
        expected = [
            label
            for label, (x, y) in enumerate([(50, 50), (10, 10)])
            if crop[0] <= x < crop[2] and crop[1] <= y < crop[3]
        ]
        crop_starts.add(tuple(expected))
        # The crowd region is seen by every crop, whether its center is or not.
        assert moved.labels.tolist() == [*expected, 2]
    assert len(crop_starts) >= 2


def test_ssd_augment__crowd_does_not_constrain_the_crop(tmp_path: Path) -> None:
    image = write(tmp_path, blank(100, 100))
    crowd = objects([[0, 0, 4, 4]], [True])
    augment = SSDAugment((50, 50), expand_p=0, crop_min_iou=(0.9,), crop_side=(0.3, 0.3))
    counts = [len(augment(image, crowd, np.random.default_rng(s))[1].boxes) for s in range(40)]
    assert counts.count(0) > 20


def test_ssd_augment__thin_rest_is_dropped(tmp_path: Path) -> None:
    image = write(tmp_path, blank(300, 300))
    given_objects = objects([[10, 10, 12, 200], [10, 10, 14, 200]])
    augment = SSDAugment((100, 100), expand_p=0, crop_min_iou=(None,), flip_p=0)
    _, moved = augment(image, given_objects, np.random.default_rng(0))
    assert moved.labels.tolist() == [1]


def test_ssd_augment__expansion_without_objects_shows_some_image(tmp_path: Path) -> None:
    image = write(tmp_path, np.full((60, 80, 3), 255, np.uint8))
    augment = SSDAugment((90, 90), expand_p=1, crop_min_iou=(0.0,), **PLAIN)
    for seed in range(100):
        pixels, moved = augment(image, objects([]), np.random.default_rng(seed))
        assert (pixels == 255).any()
        assert moved.boxes.shape == (0, 4)


def test_ssd_augment__broken_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"text\.jpg"):
        SSDAugment((30, 30))(
            ImageFile(tmp_path / "text.jpg"), objects([]), np.random.default_rng(0)
        )


@pytest.mark.parametrize("operation", [A.Resize(7, 7), A.ToFloat(p=1.0)])
def test_ssd_augment__photometric_changes_more_than_colors(
    operation: A.BasicTransform, tmp_path: Path
) -> None:
    image = write(tmp_path, blank(50, 50))
    with pytest.raises(DataError, match="changes colors alone"):
        SSDAugment((30, 30), photometric=operation)(image, objects([]), np.random.default_rng(0))


@pytest.mark.parametrize(
    "options",
    [
        {"size_hw": (0, 300)}, {"expand_p": 1.5}, {"expand_max_ratio": 0.5}, {"crop_min_iou": ()},
        {"crop_min_iou": (2.0,)}, {"crop_side": (0.0, 1.0)}, {"crop_aspect": (2.0, 3.0)},
        {"crop_tries": 0}, {"flip_p": -1}, {"fill_rgb": (0, 0, 256)}, {"max_reduce": 3},
        {"min_resolution": 0},
    ],
)  # fmt: skip
def test_ssd_augment__option_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        SSDAugment(**{"size_hw": (300, 300)} | options)


# Colors


def test_color_matrix__saturation_as_torchvision() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 190, (20, 20, 3), dtype=np.uint8)
    ours = ColorDistortion().apply(pixels, color_matrix(saturation=0.4))
    expected = v2.adjust_saturation(torch.from_numpy(pixels).permute(2, 0, 1), 0.4)
    # torchvision cuts decimals off, OpenCV multiplies in fixed point.
    assert np.abs(ours.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 2


def test_color_matrix__identity_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ColorDistortion().apply(pixels, color_matrix()), pixels)


def test_color_matrix__hand_calculated() -> None:
    pixels = np.array([[[10, 100, 200]]], np.uint8)
    apply = ColorDistortion().apply
    assert apply(pixels, color_matrix(brightness=-20)).tolist() == [[[0, 80, 180]]]
    assert apply(pixels, color_matrix(contrast=1.5)).tolist() == [[[15, 150, 255]]]
    grey = 0.299 * 10 + 0.587 * 100 + 0.114 * 200
    assert apply(pixels, color_matrix(saturation=0))[0, 0] == pytest.approx([grey] * 3, abs=1)


def test_color_matrix__hue_keeps_gray_and_brightness() -> None:
    grey = np.full((1, 1, 3), 77, np.uint8)
    assert ColorDistortion().apply(grey, color_matrix(hue_deg=90)).tolist() == grey.tolist()
    turned = color_matrix(hue_deg=30)[:, :3] @ [120.0, 100.0, 90.0]
    weights = np.array([0.299, 0.587, 0.114])
    assert turned @ weights == pytest.approx(weights @ [120, 100, 90], abs=0.01)
    assert np.abs(turned - [120, 100, 90]).max() > 5


def test_color_distortion__each_has_its_chance() -> None:
    operation = ColorDistortion()
    operation.set_random_seed(0)
    offsets = [operation.get_params()["matrix"][0, 3] for _ in range(400)]
    assert 150 < np.count_nonzero(offsets) < 250
    assert -32 <= min(offsets) < -25
    assert 25 < max(offsets) <= 32


def test_color_distortion__defaults__ranges_of_the_authors_code() -> None:
    operation = ColorDistortion()
    assert (operation.brightness, operation.hue_deg) == (32.0, 36.0)  # 18 of OpenCV's half degrees
    assert operation.contrast == operation.saturation == (0.5, 1.5)
    assert (operation.p, operation.each_p) == (1.0, 0.5)


def test_color_distortion__amounts_of_nothing__change_nothing() -> None:
    still = ColorDistortion(brightness=0, contrast=(1, 1), saturation=(1, 1), hue_deg=0, each_p=1)
    np.testing.assert_allclose(still.get_params()["matrix"], np.eye(3, 4), atol=1e-6)


@pytest.mark.parametrize("options", [{"contrast": (2, 1)}, {"brightness": -1}, {"each_p": 2}])
def test_color_distortion__option_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        ColorDistortion(**options)


# AlbumentationsPipeline


def test_albumentations__flip_moves_boxes(three_rectangles: tuple[ImageFile, Objects]) -> None:
    image, given_objects = three_rectangles
    given_objects = given_objects._replace(crowd=np.array([False, True, False]))
    pipeline = AlbumentationsPipeline((240, 320), [A.HorizontalFlip(p=1.0)])
    pixels, moved = pipeline(image, given_objects, np.random.default_rng(0))
    assert pixels.shape == (240, 320, 3)
    np.testing.assert_allclose(moved.boxes[0], [219.5, 35, 294, 116.5], atol=1e-3)
    assert moved.labels.tolist() == [0, 1, 2]
    assert moved.labels.dtype == np.int64
    assert moved.crowd.tolist() == [False, True, False]


def test_albumentations__labels_follow_boxes(three_rectangles: tuple[ImageFile, Objects]) -> None:
    image, given_objects = three_rectangles
    pipeline = AlbumentationsPipeline((300, 300), [A.RandomCrop(260, 260), A.HorizontalFlip()])
    counts = []
    for seed in range(40):
        pixels, moved = pipeline(image, given_objects, np.random.default_rng(seed))
        counts.append(len(moved.boxes))
        for box, label in zip(moved.boxes, moved.labels, strict=True):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            assert np.abs(COLORS.astype(int) - pixels[y, x]).sum(axis=1).argmin() == label
    assert set(counts) >= {1, 2}


def test_albumentations__no_objects(tmp_path: Path) -> None:
    pipeline = AlbumentationsPipeline((30, 40), [A.HorizontalFlip(p=1.0)])
    pixels, moved = pipeline(write(tmp_path, blank(9, 9)), objects([]), np.random.default_rng(0))
    assert pixels.shape == (30, 40, 3)
    assert moved.boxes.shape == (0, 4)
    assert (moved.labels.dtype, moved.crowd.dtype) == ("int64", "bool")


@pytest.mark.parametrize(
    ("operation", "message"),
    [(A.Normalize(), "leave out Normalize"), (A.RandomCrop(500, 500), "operation failed")],
)
def test_albumentations__unfit_operation(
    operation: A.BasicTransform, message: str, tmp_path: Path
) -> None:
    image = write(tmp_path, blank(50, 50))
    with pytest.raises(DataError, match=rf"picture\.jpg.*{message}"):
        AlbumentationsPipeline((30, 30), [operation])(image, objects([]), np.random.default_rng(0))


# Reproducible, and named by a configuration

BUILDERS: dict[str, Callable[[], Transform]] = {
    "ssd": lambda: SSDAugment((200, 200)),
    "albumentations": lambda: AlbumentationsPipeline(
        (200, 200),
        [A.OneOf([A.ColorJitter(p=1.0), A.GaussNoise(p=1.0)], p=0.9), A.Affine(rotate=(-9, 9))],
    ),
}


def digests(transform: Transform, image: ImageFile, given_objects: Objects) -> list[str]:
    """One digest of pixels and objects for each of five seeds."""
    return [
        hashlib.sha256(
            pixels.tobytes() + b"".join(part.tobytes() for part in moved[:3])
        ).hexdigest()
        for pixels, moved in (
            transform(image, given_objects, np.random.default_rng(seed)) for seed in range(5)
        )
    ]


@pytest.mark.parametrize("name", BUILDERS)
def test_transform__same_seed_same_bits(
    name: str, three_rectangles: tuple[ImageFile, Objects]
) -> None:
    image, given_objects = three_rectangles
    transform = BUILDERS[name]()
    expected = digests(transform, image, given_objects)
    assert digests(transform, image, given_objects) == expected
    assert digests(BUILDERS[name](), image, given_objects) == expected
    assert len(set(expected)) == 5


def test_transform__same_bits_in_another_process(
    three_rectangles: tuple[ImageFile, Objects],
) -> None:
    image, given_objects = three_rectangles
    script = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('cases', sys.argv[1])\n"
        "cases = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(cases)\n"
        "image = cases.ImageFile(sys.argv[2])\n"
        "given = cases.objects(json.loads(sys.argv[3]))\n"
        "print(json.dumps([cases.digests(b(), image, given) for b in cases.BUILDERS.values()]))\n"
    )
    arguments = [__file__, str(image.path), json.dumps(given_objects.boxes.tolist())]
    output = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    ).stdout
    here = [digests(build(), image, given_objects) for build in BUILDERS.values()]
    assert json.loads(output) == here


def test_transform__named_by_class_path(three_rectangles: tuple[ImageFile, Objects]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--transform", type=Transform)
    pipeline = {
        "class_path": "mobilevision.datasets.transforms.detection.AlbumentationsPipeline",
        "init_args": {
            "size_hw": [64, 64],
            "transforms": [
                {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 1.0}}
            ],
        },
    }
    transform = parser.instantiate_classes(parser.parse_object({"transform": pipeline})).transform
    pixels, moved = transform(*three_rectangles, np.random.default_rng(0))
    assert pixels.shape == (64, 64, 3)
    assert moved.boxes[0, 0] == pytest.approx((640 - 201) / 10)
