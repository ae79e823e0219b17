import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilevision.datasets.data_errors import FaultKind
from mobilevision.datasets.detection import coco
from mobilevision.datasets.detection.check import check_dataset
from mobilevision.datasets.errors import DataError

from . import layouts
from .layouts import DIVIDED, UNDIVIDED, WHOLE

Write = Callable[..., Path]
Document = dict[str, Any]


def check(root: Path, **options: Any) -> dict[str, Any]:
    report = check_dataset(root, progress=False, **options)
    assert report.ok == report.as_dict()["ok"]
    return json.loads(json.dumps(report.as_dict(), allow_nan=False))


def test_check_dataset__sound_set__numbers_and_no_faults(
    write_coco: Write, document: Document
) -> None:
    report = check_dataset(write_coco(train=document), progress=False)
    assert report.ok
    numbers = report.as_dict()["splits"]["train"]
    assert numbers == {
        "file": "annotations/train.json",
        "images": 3,
        "boxes": 3,
        "crowd": 1,
        "empty": 1,
        "sizes_hw": ((80, 100), (80, 100)),
        "per_class": {"cat": 1, "dog": 2},
        "turned": 0,
        "faults": {},
        "released": {},
    }
    text = str(report)
    assert "No faults (every image decoded)." in text
    assert max(map(len, text.splitlines()[1:])) <= 80


def broken_set(write_coco: Write, document: Document) -> Path:
    entry = document["annotations"][1]
    document["images"] += [
        {"id": 30 + i, "file_name": f"{name}.jpg", "width": 100, "height": 80}
        for i, name in enumerate(["missing", "text", "cut", "empty", "size"])
    ]
    document["images"].append(document["images"][0] | {"id": 40})
    document["annotations"] += [
        entry | {"id": 50, "bbox": [0, 0, 0, 5]},
        entry | {"id": 51, "bbox": [90, 0, 50, 5]},
        entry | {"id": 52, "category_id": 77},
        entry | {"id": 53, "image_id": 77},
        entry | {"id": 2},
    ]
    root = write_coco(train=document, val="{not JSON")
    images = root / "images"
    (images / "missing.jpg").unlink()
    (images / "text.jpg").write_text("hello")
    (images / "empty.jpg").write_bytes(b"")
    content = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (100, 90)).save(images / "size.jpg")
    Image.new("RGB", (9, 9)).save(images / "stray.png")
    return root


def test_check_dataset__everything_wrong__every_fault_listed(
    write_coco: Write, document: Document
) -> None:
    root = broken_set(write_coco, document)
    report = check(root)
    assert not report["ok"]
    faults = report["splits"]["train"]["faults"]
    assert {title: fault["count"] for title, fault in faults.items()} == {
        "boxes without size": 1,
        "boxes beyond the image": 1,
        "unknown categories": 1,
        "references to unknown images": 1,
        "annotation ids used twice": 1,
        "images declared twice": 1,
        "missing images": 1,
        "unreadable images": 3,
        "images of another size": 1,
    }
    assert "annotation 50 " in faults["boxes without size"]["examples"][0]
    assert "missing.jpg" in faults["missing images"]["examples"][0]
    unreadable = " ".join(faults["unreadable images"]["examples"])
    assert all(f"{name}.jpg" in unreadable for name in ("text", "cut", "empty"))
    assert report["splits"]["val"]["faults"]["unreadable annotation files"]["count"] == 1
    assert report["unreferenced"] == [str(root / "images" / "stray.png")]
    text = str(check_dataset(root, progress=False))
    assert "12 faults (every image decoded)." in text
    assert "train: faults: 3 unreadable images" in text
    assert "stray.png" in text


def test_check_dataset__quick__images_not_opened(write_coco: Write, document: Document) -> None:
    faults = check(broken_set(write_coco, document), quick=True)["splits"]["train"]["faults"]
    assert "missing images" in faults
    assert "unreadable images" not in faults


def test_check_dataset__many_faults__text_shows_some_and_counts_all(
    write_coco: Write, document: Document
) -> None:
    entry = document["annotations"][0]
    document["annotations"] += [entry | {"id": 100 + i, "bbox": [0, 0, 0, 0]} for i in range(25)]
    text = str(check_dataset(write_coco(train=document), progress=False))
    assert "... and 15 more" in text
    assert "25 faults" in text


def test_check_dataset__splits_of_other_categories__fault(
    write_coco: Write, document: Document
) -> None:
    other = document | {"categories": [*document["categories"], {"id": 11, "name": "emu"}]}
    faults = check(write_coco(train=document, val=other))["splits"]["val"]["faults"]
    assert faults["unknown categories"]["count"] == 1


def test_check_dataset__turned_image__counted_and_no_fault(
    write_coco: Write, document: Document
) -> None:
    root = write_coco(train=document)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(root / "images" / "a.jpg", exif=exif)
    report = check(root)
    assert report["ok"]
    assert report["splits"]["train"]["turned"] == 1


def test_check_dataset__image_of_too_many_pixels__is_a_fault(
    write_coco: Write, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_coco(train=document)  # three images of 80 x 100 px
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 100 // 3)
    report = check_dataset(root, progress=False)
    assert not report.ok
    assert str(report).count("MOBILEVISION_MAX_PIXELS") == 3


def test_check_dataset__released_file__its_faults_are_listed_apart(
    write_coco: Write, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    document["annotations"][1]["bbox"][3] = 0
    root = write_coco(train=document)
    size = (root / "annotations" / "train.json").stat().st_size
    monkeypatch.setitem(coco.OFFICIAL_FILES, "train.json", (size, "COCO train1999"))
    report = check_dataset(root, progress=False)
    assert report.ok
    assert "in COCO's own release, left out: 1 boxes without size" in str(report)


def test_check_dataset__no_data__error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no annotations in a known place"):
        check_dataset(tmp_path)


@pytest.mark.parametrize("name", ["check", "convert"])
def test_check__imported__without_torch(name: str) -> None:
    code = f"import sys, mobilevision.datasets.detection.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["raccoon", "coco"])
def test_check_dataset__real_sets__no_faults(real_data: Path, name: str) -> None:
    report = check_dataset(real_data / name, progress=False)
    assert report.ok
    assert not report.unreferenced


def test_check_dataset__pascal_voc__read_and_counted(tmp_path: Path) -> None:
    for split, boxes in (("train", [(1, 1, 50, 40), (5, 5, 300, 9)]), ("valid", [(1, 1, 9, 9)])):
        folder = tmp_path / split
        folder.mkdir()
        Image.new("RGB", (100, 80)).save(folder / "a.jpg")
        objects = "".join(
            f"<object><name>cat</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for a, b, c, d in boxes
        )
        size = "<size><width>100</width><height>80</height></size>"
        (folder / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    Image.new("RGB", (10, 10)).save(tmp_path / "train" / "unused.png")
    report = check_dataset(tmp_path, progress=False)
    assert report.layout == "Pascal VOC"
    assert [split.boxes for split in report.splits.values()] == [1, 1]
    assert report.splits["train"].per_class == {"cat": 1}
    assert report.splits["train"].faults.counts == {FaultKind.OUTSIDE: 1, FaultKind.UNLABELED: 1}
    assert "unused.png" in report.splits["train"].faults.messages[FaultKind.UNLABELED][0]
    assert not report.unreferenced
    assert "Pascal VOC" in str(report)


@pytest.mark.parametrize("name", [*DIVIDED, *UNDIVIDED])
def test_check_dataset__every_layout__counts_the_truth(tmp_path: Path, name: str) -> None:
    {**DIVIDED, **UNDIVIDED}[name](tmp_path)
    report = check_dataset(tmp_path, progress=False)
    assert report.ok, str(report)
    splits = report.splits.values()
    assert sum(split.images for split in splits) == len(WHOLE)
    assert sum(split.boxes for split in splits) == sum(len(scene.boxes) for scene in WHOLE)
    assert not report.unreferenced
    assert ("No validation split" in str(report)) == (name in UNDIVIDED)


def test_check_dataset__yolo_with_faults__every_one_listed(tmp_path: Path) -> None:
    layouts.yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 1 1\n9 0.5 0.5 1 1\nx\n0 2 2 1 1\n")
    (tmp_path / "labels/train/d.txt").unlink()
    (tmp_path / "labels/val/stray.txt").touch()
    (tmp_path / "images/val/e.png").write_bytes(b"no image")
    layouts.voc(tmp_path)
    report = check_dataset(tmp_path, progress=False)
    assert {name: split.faults.counts for name, split in report.splits.items()} == {
        "train": {
            FaultKind.UNLABELED: 1,
            FaultKind.MALFORMED: 1,
            FaultKind.UNKNOWN_CATEGORY: 1,
            FaultKind.OUTSIDE: 1,
        },
        "val": {FaultKind.UNKNOWN_IMAGE: 1, FaultKind.UNREADABLE: 1},
    }
    assert "It looks like Pascal VOC, too; --layout chooses another." in str(report)
    assert check_dataset(tmp_path, "voc", progress=False).ok
