from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from mobilevision.datasets.data_errors import FaultKind
from mobilevision.datasets.detection.coco import read_coco
from mobilevision.datasets.detection.image_checks import (
    drop_missing,
    fit_to_images,
    quarter_turn,
    turn_boxes,
)
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile

Write = Callable[..., Path]
Document = dict[str, Any]

STORED_HW = (80, 100)
BOX_XYXY = (10, 20, 40, 36)


def save_turned(path: Path, orientation: int) -> None:
    """A black image of 100x80 stored pixels with a white box, and an EXIF orientation."""
    pixels = np.zeros((*STORED_HW, 3), dtype=np.uint8)
    x0, y0, x1, y1 = BOX_XYXY
    pixels[y0:y1, x0:x1] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=100, subsampling=0)


def white_box(pixels: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(pixels.mean(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_boxes__every_orientation__where_pillow_puts_the_pixels(
    tmp_path: Path, orientation: int
) -> None:
    save_turned(tmp_path / "a.jpg", orientation)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    boxes = np.array([BOX_XYXY], dtype=np.float32)
    turned = turn_boxes(boxes, STORED_HW, orientation)
    assert turned.dtype == np.float32
    assert turned[0].tolist() == white_box(np.asarray(upright))
    assert turn_boxes(boxes[:0], STORED_HW, orientation).shape == (0, 4)


def turned_set(root: Path, orientation: int, declared_hw: tuple[int, int], box: list[int]) -> Any:
    save_turned(root / "images" / "a.jpg", orientation)
    height, width = declared_hw
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "box"}],
    }


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_upright", [True, False])
def test_fit_to_images__quarter_turn__boxes_on_the_object(
    write_coco: Write, orientation: int, drawn_upright: bool
) -> None:
    root = write_coco()
    x0, y0, x1, y1 = (
        turn_boxes(np.array([BOX_XYXY]), STORED_HW, orientation)[0].tolist()
        if drawn_upright
        else BOX_XYXY
    )
    declared_hw = STORED_HW[::-1] if drawn_upright else STORED_HW
    document = turned_set(root, orientation, declared_hw, [x0, y0, x1 - x0, y1 - y0])
    write_coco(draw=False, train=document)
    data = fit_to_images(read_coco(root / "annotations" / "train.json", root / "images"))
    expected = white_box(ImageFile(root / "images" / "a.jpg").read())
    assert data.boxes.xyxy[0].tolist() == expected
    assert data.images.sizes_hw.tolist() == [[100, 80]]
    entry = data.ground_truth["annotations"][0]
    left, top, width, height = entry["bbox"]
    assert [left, top, left + width, top + height] == expected
    assert entry["area"] == 30 * 16
    assert (
        data.ground_truth["images"][0] | {"width": 80, "height": 100}
        == (data.ground_truth["images"][0])
    )


def test_quarter_turn__declared_as_shown__none(tmp_path: Path) -> None:
    save_turned(tmp_path / "a.jpg", 3)
    assert quarter_turn(ImageFile(tmp_path / "a.jpg"), STORED_HW) is None


@pytest.mark.parametrize("declared_hw", [(100, 80), (81, 100), (8, 10)])
def test_quarter_turn__other_size_and_no_rotation__error(
    tmp_path: Path, declared_hw: tuple[int, int]
) -> None:
    save_turned(tmp_path / "a.jpg", 1)
    with pytest.raises(DataError, match=r"a\.jpg: the image is 100x80 pixels"):
        quarter_turn(ImageFile(tmp_path / "a.jpg"), declared_hw)


def test_drop_missing__one_absent__raises_or_counts(write_coco: Write, document: Document) -> None:
    root = write_coco(train=document)
    (root / "images" / "a.jpg").unlink()
    read = (root / "annotations" / "train.json", root / "images")
    with pytest.raises(DataError, match=r"a\.jpg: no such image"):
        drop_missing(read_coco(*read))
    data = drop_missing(read_coco(*read, on_error="skip"))
    assert data.images.ids.tolist() == [20, 5]
    assert data.boxes.ids.tolist() == [4]
    assert data.faults.counts == {FaultKind.MISSING: 1}


def test_drop_missing__whole_folder_absent__error_counts_them(
    write_coco: Write, document: Document, tmp_path: Path
) -> None:
    root = write_coco(train=document)
    with pytest.raises(DataError, match="and 2 more such faults"):
        drop_missing(read_coco(root / "annotations" / "train.json", tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: path.write_text("no image"), FaultKind.UNREADABLE),
        (lambda path: Image.new("1", (13_000, 13_000)).save(path, "PNG"), FaultKind.UNREADABLE),
        (lambda path: path.write_bytes(b""), FaultKind.UNREADABLE),
        (lambda path: Image.new("RGB", (90, 80)).save(path), FaultKind.SIZE),
    ],
)
def test_fit_to_images__bad_image__raises_or_left_out_of_ground_truth(
    write_coco: Write, document: Document, damage: Callable[[Path], object], kind: FaultKind
) -> None:
    root = write_coco(train=document)
    damage(root / "images" / "a.jpg")
    read = (root / "annotations" / "train.json", root / "images")
    with pytest.raises(DataError, match=r"a\.jpg"):
        fit_to_images(read_coco(*read))
    data = fit_to_images(read_coco(*read, on_error="skip"))
    assert data.faults.counts == {kind: 1}
    assert [image["id"] for image in data.ground_truth["images"]] == [20, 5]
    assert [entry["id"] for entry in data.ground_truth["annotations"]] == [4]
