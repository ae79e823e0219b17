"""Images as people have them: every kind gives the same pixels, and what is none says so."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobilevision.apps.inference.predictor import as_images, prepare_ahead
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


def read_all(images) -> list[np.ndarray]:
    return [image.read() for image in as_images(images)[0]]


def test_as_images__every_kind__the_same_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    alpha = np.dstack([pixels, np.full((7, 11), 9, np.uint8)])
    kinds = [
        *(path, str(path), Image.fromarray(pixels), pixels, tensor, tensor.float() / 255),
        *(alpha, Image.fromarray(alpha, "RGBA"), pixels[:, ::-1][:, ::-1]),
        torch.from_numpy(alpha).permute(2, 0, 1),
    ]
    for kind in kinds:
        images, single = as_images(kind)
        read = next(iter(images)).read()
        assert single
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, pixels)
    assert len(read_all(kinds)) == len(kinds)


def test_as_images__gray__three_equal_channels(pixels: np.ndarray) -> None:
    grey = pixels[..., 0]
    tensor = torch.from_numpy(grey.copy())
    for kind in (grey, grey[..., None], Image.fromarray(grey), tensor, tensor[None]):
        np.testing.assert_array_equal(read_all(kind)[0], np.dstack([grey] * 3))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_as_images__exif_rotation__as_the_file_is_read(
    tmp_path: Path, pixels: np.ndarray, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_all(image)[0], ImageFile(path).read())


def test_as_images__batch__one_image_each(pixels: np.ndarray) -> None:
    for batch in (pixels[None].repeat(3, 0), torch.zeros(3, 3, 5, 4, dtype=torch.uint8)):
        images, single = as_images(batch)
        assert not single
        assert len(list(images)) == 3


def test_as_images__generator__is_read_as_it_is_used(pixels: np.ndarray) -> None:
    asked = []

    def generate() -> Iterator[np.ndarray]:
        for index in range(5):
            asked.append(index)
            yield pixels

    images, single = as_images(generate())
    next(images)
    assert (single, asked) == (False, [0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 4, 3)), r"image: pixels are float64. Give uint8"),
        (np.zeros((4, 4, 3), np.uint16), "pixels are uint16"),
        (np.zeros((3, 40, 50), np.uint8), r"shape \(3, 40, 50\).*transpose it"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (torch.zeros(3, 0, 4), r"shape \(0, 4, 3\)"),
        (torch.full((3, 2, 2), 7.0), r"in \[0, 1\], but these range from 7 to 7"),
        (torch.full((3, 2, 2), torch.nan), r"in \[0, 1\]"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "pixels are int64"),
        (Image.new("F", (2, 2)), "mode 'F'"),
    ],
)
def test_read__no_image__says_what_is_wrong(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_all(value)


@pytest.mark.parametrize(("value", "name"), [(None, "image: NoneType"), ([3], "image 0: int")])
def test_as_images__other_types__named(value: object, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is no image"):
        read_all(value)


def test_prepare_ahead__many__in_order_and_no_more_than_asked_for() -> None:
    lock, started = threading.Lock(), 0

    def double(value: int) -> int:
        nonlocal started
        with lock:
            started += 1
        if value == 5:
            raise DataError("five")
        return 2 * value

    results = []
    for item, result in prepare_ahead(range(50), double, ahead=4):
        results.append((item, result))
        assert started <= len(results) + 4
    assert [item for item, _ in results] == list(range(50))
    assert str(results.pop(5)[1]) == "five"
    assert all(result == 2 * item for item, result in results)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_prepare_ahead__few(count: int) -> None:
    assert list(prepare_ahead(range(count), str, ahead=1)) == [(i, str(i)) for i in range(count)]


def test_prepare_ahead__fault_of_the_program__is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prepare_ahead([1, 0, 2], lambda value: 1 / value, ahead=2))


def test_apps__imported_and_used__without_torch() -> None:
    code = (
        "import sys, numpy\n"
        "from mobilevision.apps import DetectionResult, Detector\n"
        "from mobilevision.apps.inference.predictor import as_images\n"
        "next(as_images(numpy.zeros((2, 2, 3), 'uint8'))[0]).read()\n"
        "print(sorted({'torch', 'lightning', 'albumentations', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
