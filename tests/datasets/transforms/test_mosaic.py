"""Where tiles, pixels and boxes of a mosaic end up, and that a key fixes every bit."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A  # noqa: N812
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image

from mobilevision.datasets.detection.annotations import Annotations
from mobilevision.datasets.detection.coco import read_coco
from mobilevision.datasets.detection.module import DetectionDataModule, DetectionDataset
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.sampling import SampleKey
from mobilevision.datasets.transforms.detection import Mosaic, Resize, SSDAugment
from mobilevision.datasets.transforms.geometry import Objects

PLAIN: dict[str, Any] = {"photometric": A.NoOp(), "flip_p": 0.0, "aspect": (1.0, 1.0)}
"""Keeps the drawn colors, so that they can be found again."""
SIZE_HW = (40, 50)


def objects(boxes: list[list[float]], crowd: list[bool] | None = None) -> Objects:
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(len(boxes), dtype=np.int64),
        np.array(crowd or [False] * len(boxes), np.bool_),
    )


def write(folder: Path, pixels: np.ndarray, name: str = "picture.png") -> ImageFile:
    Image.fromarray(pixels).save(folder / name)
    return ImageFile(folder / name)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(height=st.integers(2, 99), width=st.integers(2, 99), seed=st.integers(0, 999))
@settings(deadline=None)
def test_divide__any_size__tiles_cover_every_pixel_once(height: int, width: int, seed: int) -> None:
    tiles = Mosaic(centre=(0.01, 0.99)).divide((height, width), rng(seed))
    count = np.zeros((height, width), int)
    for left, top, right, bottom in tiles:
        assert right > left
        assert bottom > top
        count[top:bottom, left:right] += 1
    assert (count == 1).all()


def test_divide__fixed_center__hand_calculated() -> None:
    tiles = Mosaic(centre=(0.25, 0.25)).divide((100, 200), rng())
    assert tiles == [(0, 0, 50, 25), (50, 0, 200, 25), (0, 25, 50, 100), (50, 25, 200, 100)]


def test_fill__half_scale_in_half_a_side__whole_image_hand_calculated(tmp_path: Path) -> None:
    """A tile of half the sides at scale 0.5 shows the whole image: boxes are an affine map."""
    image = write(tmp_path, np.full((80, 160, 3), 9, np.uint8))
    mosaic = Mosaic(scale=(0.5, 0.5), **PLAIN)
    found = objects([[16, 8, 80, 72], [0, 0, 160, 80], [3, 3, 4, 30]], [False, True, False])
    # 160 x 80 onto 50 x 100 at (50, 100): x' = 50 + x * 50 / 160, y' = 100 + y * 100 / 80
    pixels, moved = mosaic.fill((50, 100, 100, 200), image, found, (200, 100), rng())
    assert pixels.shape == (100, 50, 3)
    np.testing.assert_allclose(moved.boxes, [[55, 110, 75, 190], [50, 100, 100, 200]])
    assert moved.labels.tolist() == [0, 1]  # the third is 0.3 pixels wide
    assert moved.crowd.tolist() == [False, True]
    assert moved.boxes.dtype == np.float32


def test_fill__full_scale__part_of_the_tiles_size_unscaled(tmp_path: Path) -> None:
    """At scale 1 and the image of the network's size, a tile is a plain cut-out."""
    noise = rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = write(tmp_path, noise)
    mosaic = Mosaic(scale=(1.0, 1.0), **PLAIN)
    tile = (30, 0, 90, 20)
    crop = mosaic._sample(tile, (60, 90), (60, 90), rng(5))
    assert crop[2] - crop[0] == pytest.approx(60)
    assert crop[3] - crop[1] == pytest.approx(20)
    marks = objects([[x, y, x + 4, y + 4] for x in range(0, 86, 10) for y in range(0, 56, 10)])
    pixels, moved = mosaic.fill(tile, image, marks, (60, 90), rng(5))
    inside = [
        label
        for label, (x0, y0, x1, y1) in enumerate(marks.boxes)
        if crop[0] <= (x0 + x1) / 2 < crop[2] and crop[1] <= (y0 + y1) / 2 < crop[3]
    ]
    assert moved.labels.tolist() == inside
    assert len(inside) >= 6
    shift = moved.boxes - marks.boxes[inside]
    # The window has whole pixels: one more than the tile may be squeezed into it (20 of 21).
    sides = moved.boxes[:, 2:] - moved.boxes[:, :2]
    whole = (sides > 3.8).all(axis=1)
    assert whole.sum() >= 3
    assert (sides <= 4.001).all()
    assert np.ptp(shift[whole], axis=0).max() <= 1.0
    assert pixels.shape == (20, 60, 3)


def test_fill__object_cut_by_the_tile__clipped_and_leaves_with_its_center(tmp_path: Path) -> None:
    image = write(tmp_path, np.zeros((100, 100, 3), np.uint8))
    mosaic = Mosaic(scale=(1.0, 1.0), **PLAIN)
    kept = set()
    for seed in range(40):
        x0, y0, x1, y1 = mosaic._sample((0, 0, 50, 50), (100, 100), (100, 100), rng(seed))
        whole = objects([[0, 0, 100, 100], [0, 0, 10, 10], [0, 0, 100, 100]], [False, False, True])
        _, moved = mosaic.fill((0, 0, 50, 50), image, whole, (100, 100), rng(seed))
        expected = [i for i, c in enumerate([50, 5]) if x0 <= c < x1 and y0 <= c < y1] + [2]
        assert moved.labels.tolist() == expected
        assert (moved.boxes >= 0).all()
        assert (moved.boxes <= 50).all()
        assert moved.boxes[-1].tolist() == [0, 0, 50, 50]
        kept.add(tuple(expected))
    assert len(kept) >= 2


def test_fill__mirrored__pixels_and_boxes(tmp_path: Path) -> None:
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[10:20, 5:15] = 255
    image = write(tmp_path, pixels)
    mosaic = Mosaic(scale=(0.5, 0.5), photometric=A.NoOp(), flip_p=1.0, aspect=(1.0, 1.0))
    drawn, moved = mosaic.fill((0, 20, 25, 40), image, objects([[5, 10, 15, 20]]), SIZE_HW, rng())
    assert moved.boxes[0].tolist() == [25 - 7.5, 25, 25 - 2.5, 30]
    assert (drawn[6:9, 18:22] == 255).all()
    assert drawn[:, :15].max() == 0


def test_fill__large_jpeg__decoded_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (1600, 1200)).save(tmp_path / "large.jpg")
    image, asked = ImageFile(tmp_path / "large.jpg"), []
    read = ImageFile.read
    monkeypatch.setattr(
        ImageFile, "read", lambda self, reduce=1: asked.append(reduce) or read(self, reduce)
    )
    Mosaic(scale=(0.5, 0.5), **PLAIN).fill((0, 0, 150, 150), image, objects([]), (300, 300), rng())
    Mosaic(scale=(0.5, 0.5), max_reduce=1, **PLAIN).fill(
        (0, 0, 150, 150), image, objects([]), (300, 300), rng()
    )
    assert asked == [8, 1]


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_sample__any_draw__inside_the_image_and_not_smaller_than_asked(seed: int) -> None:
    mosaic = Mosaic(scale=(0.2, 1.5), aspect=(0.5, 2.0), centre=(0.1, 0.9))
    image_hw = (int(rng(seed).integers(1, 500)), int(rng(seed + 1).integers(1, 500)))
    for tile in mosaic.divide((200, 100), rng(seed)):
        left, top, right, bottom = mosaic._sample(tile, image_hw, (200, 100), rng(seed))
        assert -1e-6 <= left < right <= image_hw[1] + 1e-6
        assert -1e-6 <= top < bottom <= image_hw[0] + 1e-6


def test_sample__wide_objects__factor_is_that_of_width_to_height() -> None:
    """Four times as wide as high: twice the width and half the height, so the area stays."""
    mosaic = Mosaic(scale=(1.0, 1.0))
    mosaic.aspect = (4.0, 4.0)
    left, top, right, bottom = mosaic._sample((0, 0, 40, 10), (300, 200), (80, 100), rng())
    # 40 of 100 columns at twice the width are a fifth of 200; 10 of 80 rows a quarter of 300.
    assert right - left == pytest.approx(40)
    assert bottom - top == pytest.approx(75)


def test_join__parts__in_their_tiles() -> None:
    mosaic = Mosaic(**PLAIN)
    tiles = mosaic.divide(SIZE_HW, rng(2))
    parts = []
    for grey, (left, top, right, bottom) in enumerate(tiles):
        pixels = np.full((bottom - top, right - left, 3), grey * 50, np.uint8)
        boxes = [] if grey == 1 else [[left, top, right, bottom]]
        parts.append((pixels, objects([list(map(float, box)) for box in boxes])))
    image, joined = mosaic.join(tiles, parts, SIZE_HW)
    assert image.shape == (*SIZE_HW, 3)
    assert len(joined.boxes) == 3
    for box, grey in zip(joined.boxes.astype(int), (0, 100, 150), strict=True):
        assert (image[box[1] : box[3], box[0] : box[2]] == grey).all()


@pytest.mark.parametrize(
    "options",
    [{"p": 1.5}, {"last_epochs": -1}, {"centre": (0.0, 0.5)}, {"centre": (0.7, 0.3)},
     {"scale": (0.0, 1.0)}, {"aspect": (1.5, 2.0)}, {"flip_p": 2}, {"fill_rgb": (0, 0, 300)},
     {"max_reduce": 3}, {"min_resolution": 0}],
)  # fmt: skip
def test_mosaic__option_out_of_range__named(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        Mosaic(**options)


# In a data set


@pytest.fixture
def root(write_coco: Any, document: dict[str, Any]) -> Path:
    return write_coco(train=document, val=document)


def read(root: Path) -> Annotations:
    return read_coco(root / "annotations" / "train.json", root / "images")


def dataset(root: Path, **options: Any) -> DetectionDataset:
    return DetectionDataset(read(root), SSDAugment(SIZE_HW), **options)


def test_dataset__mosaic__of_seed_epoch_and_position_alone(root: Path) -> None:
    def image(seed: int, position: int, epoch: int) -> np.ndarray:
        return dataset(root, seed=seed, mosaic=Mosaic())[SampleKey(position, epoch)].image

    first = image(1, 0, 3)
    assert first.shape == (*SIZE_HW, 3)
    assert np.array_equal(first, image(1, 0, 3))
    for other in ((2, 0, 3), (1, 1, 3), (1, 0, 4)):
        assert not np.array_equal(first, image(*other))


def test_dataset__mosaic__names_four_files_and_starts_with_its_own(root: Path) -> None:
    sample = dataset(root, mosaic=Mosaic())[SampleKey(1, 0)]
    files = [Path(path).name for path in sample.path.split(" + ")]
    assert len(files) == 4
    assert files[0] == "b.jpg"
    assert sample.image_id == 20
    assert sample.size_hw == (80, 100)


def test_dataset__epochs_without_mosaics__bits_of_the_transform_alone(root: Path) -> None:
    plain = dataset(root, seed=3)
    closed = dataset(root, seed=3, mosaic=Mosaic(), mosaic_epochs=2)
    never = dataset(root, seed=3, mosaic=Mosaic(p=0.0))
    for epoch, same in ((0, False), (1, False), (2, True), (3, True)):
        key = SampleKey(0, epoch)
        assert np.array_equal(closed[key].image, plain[key].image) == same
        assert np.array_equal(never[key].image, plain[key].image)


def test_dataset__share_of_mosaics__as_asked(root: Path) -> None:
    half = dataset(root, mosaic=Mosaic(p=0.5))
    mosaics = [" + " in half[SampleKey(0, epoch)].path for epoch in range(200)]
    assert 70 <= sum(mosaics) <= 130  # 100 +- 7 for one standard deviation


def test_dataset__crowd_regions__stay_crowd(root: Path) -> None:
    mosaics = dataset(root, mosaic=Mosaic())
    crowds = [mosaics[SampleKey(1, epoch)].objects for epoch in range(10)]
    assert any(each.crowd.any() for each in crowds)
    assert all((each.labels[each.crowd] == 1).all() for each in crowds)  # as annotated


def test_dataset__unreadable_partner__named_or_replaced_and_counted(root: Path) -> None:
    victim = root / "images" / "c.jpg"
    victim.write_bytes(b"not an image")
    strict = dataset(root, mosaic=Mosaic())
    with pytest.raises(DataError, match=r"c\.jpg"):
        [strict[SampleKey(0, epoch)] for epoch in range(10)]
    lenient = dataset(root, mosaic=Mosaic(), on_error="skip")
    paths = [lenient[SampleKey(0, epoch)].path for epoch in range(10)]
    assert lenient.unreadable == [str(victim)]
    assert not any("c.jpg" in path for path in paths)
    assert all(path.count(" + ") == 3 for path in paths)


def test_data_module__last_epochs__closes_mosaics_by_the_trainers_length(root: Path) -> None:
    def epochs(max_epochs: int | None, last: int) -> int | None:
        data = DetectionDataModule(root, size_hw=SIZE_HW, mosaic=Mosaic(last_epochs=last))
        data.trainer = SimpleNamespace(max_epochs=max_epochs)  # type: ignore[assignment]
        data.setup("fit")
        assert data.datasets["val"].mosaic is None
        assert isinstance(data.datasets["val"].transform, Resize)
        return data.datasets["train"].mosaic_epochs

    assert epochs(10, 3) == 7
    assert epochs(2, 3) == 0
    assert epochs(-1, 0) is None
    for unknown in (-1, None):
        with pytest.raises(DataError, match=r"trainer\.max_epochs"):
            epochs(unknown, 3)


def test_data_module__from_yaml__mosaic_by_class_path(root: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DetectionDataModule, "data")
    config = parser.parse_args([
        "--data=DetectionDataModule", f"--data.root={root}", "--data.size_hw=[40, 50]",
        "--data.mosaic=mobilevision.datasets.transforms.detection.Mosaic", "--data.mosaic.p=0.25",
        "--data.mosaic.scale=[0.5, 0.75]",
    ])  # fmt: skip
    mosaic = parser.instantiate_classes(config).data.mosaic
    assert (mosaic.p, mosaic.scale) == (0.25, (0.5, 0.75))


@pytest.mark.real_data
def test_dataset__real_images__boxes_inside_and_of_the_right_size(real_data: Path) -> None:
    folder = real_data / "raccoon"
    annotations = read_coco(folder / "annotations" / "train.json", folder / "images")
    mosaics = DetectionDataset(annotations, SSDAugment((160, 160)), mosaic=Mosaic())
    counts = []
    for position in range(0, len(mosaics), 5):
        sample = mosaics[position]
        assert sample.image.shape == (160, 160, 3)
        boxes = sample.objects.boxes
        assert (boxes >= 0).all()
        assert (boxes <= 160).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
        counts.append(len(boxes))
    assert np.mean(counts) > 2  # one image alone has 1.1
