"""Conversion to COCO's format, read back by this package and by others."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mobilevision.datasets.detection.check import check_dataset
from mobilevision.datasets.detection.convert import convert_dataset
from mobilevision.datasets.detection.layout import ReadOptions, find_layout
from mobilevision.datasets.errors import DataError

from . import layouts
from .layouts import DIVIDED, TRUTH, UNDIVIDED, WHOLE, Scene
from .test_layout import require_truth


def converted(root: Path, **options) -> Path:
    out = root.parent / "out"
    convert_dataset(root, out, progress=False, **options)
    return out


def scenes_by_pycocotools(out: Path, split: str) -> list[Scene]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out / "annotations" / f"instances_{split}.json"))
    scenes = []
    for image in coco.loadImgs(coco.getImgIds()):
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        boxes = [
            (coco.cats[each["category_id"]]["name"], *np.round(each["bbox"], 9).tolist())
            for each in found
        ]
        with Image.open(out / split / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
        scenes.append(Scene(Path(image["file_name"]).stem, file.size, boxes))
    return sorted(scenes)


@pytest.mark.parametrize("name", DIVIDED)
def test_convert_dataset__every_layout__pycocotools_reads_the_truth(
    tmp_path: Path, name: str
) -> None:
    DIVIDED[name](tmp_path / "set")
    out = converted(tmp_path / "set")
    assert check_dataset(out, progress=False).ok
    found = find_layout(out)
    assert found.title == "COCO without a year"
    for split, scenes in TRUTH.items():
        require_truth(found.read(split), scenes)
        assert scenes_by_pycocotools(out, split) == sorted(scenes)


def test_convert_dataset__twice__the_same_files(tmp_path: Path) -> None:
    layouts.yolo(tmp_path / "set")
    first = converted(tmp_path / "set")
    convert_dataset(first, tmp_path / "again", progress=False)
    for path in filter(Path.is_file, first.rglob("*")):
        again = tmp_path / "again" / path.relative_to(first)
        if path.suffix == ".json":
            assert (
                find_layout(first).read(path.stem[10:]).ground_truth["annotations"]
                == (
                    find_layout(tmp_path / "again").read(path.stem[10:]).ground_truth["annotations"]
                )
            )
        else:
            assert again.read_bytes() == path.read_bytes()


def test_convert_dataset__supervision_reads_it(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    layouts.yolo(tmp_path / "set")
    out = converted(tmp_path / "set")
    dataset = supervision.DetectionDataset.from_coco(
        str(out / "train"), str(out / "annotations" / "instances_train.json")
    )
    assert dataset.classes == list(layouts.CLASSES)
    assert {Path(path).stem for path in dataset.image_paths} == {"a", "b c", "d"}
    boxes = {Path(path).stem: detections.xyxy for path, detections in dataset.annotations.items()}
    np.testing.assert_allclose(boxes["a"], [[10, 20, 40, 60], [0, 0, 100, 80]], atol=1e-4)
    assert len(boxes["b c"]) == 0


def test_convert_dataset__links__share_their_content(tmp_path: Path) -> None:
    layouts.voc(tmp_path / "set")
    out = converted(tmp_path / "set", link=True)
    assert (out / "train" / "a.png").samefile(tmp_path / "set" / "JPEGImages" / "a.png")


def test_convert_dataset__link_to_another_disk__refused_and_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str) -> None:
        raise OSError(18, "Invalid cross-device link", *paths)

    layouts.voc(tmp_path / "set")
    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(DataError, match=r"a\.png: cannot be linked .* Leave out --link"):
        converted(tmp_path / "set", link=True)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_convert_dataset__val_fraction__divided(tmp_path: Path) -> None:
    UNDIVIDED["yolo of CVAT, Ultralytics"](tmp_path / "set")
    out = converted(tmp_path / "set", val_fraction=0.4)
    splits = find_layout(out)
    images = {split: set(splits.read(split).images.file_names) for split in ("train", "val")}
    assert not images["train"] & images["val"]
    assert {Path(name).stem for names in images.values() for name in names} == {
        scene.name for scene in WHOLE
    }
    with pytest.raises(DataError, match="has a validation split already"):
        convert_dataset(out, tmp_path / "again", val_fraction=0.4, progress=False)
    (out / "annotations/instances_train.json").unlink()
    for place in ("annotations/instances_{}.json", "{}"):
        (out / place.format("val")).rename(out / place.format("test"))
    with pytest.raises(DataError, match="has no training split to divide"):
        convert_dataset(out, tmp_path / "again", val_fraction=0.4, progress=False)


def test_convert_dataset__turned_by_exif__boxes_of_the_upright_image(tmp_path: Path) -> None:
    root = tmp_path / "set"
    scene = Scene("a", (100, 80), [("cat", 10, 20, 30, 40)])
    layouts.write(root / "annotations/train.json", layouts.coco_document([scene]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    (root / "images").mkdir()
    Image.new("RGB", (100, 80)).save(root / "images" / "a.png", exif=exif)
    data = find_layout(converted(root)).read("train")
    assert data.images.sizes_hw.tolist() == [[100, 80]]
    assert data.boxes.xywh.tolist() == [[20, 10, 40, 30]]


def test_convert_dataset__faulty__nothing_is_left(tmp_path: Path) -> None:
    root = tmp_path / "set"
    layouts.yolo(root)
    (root / "labels/val/e.txt").unlink()
    with pytest.raises(DataError, match=r"e\.png: has no label file"):
        converted(root)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    converted(root, options=ReadOptions(unlabeled="background"))
    with pytest.raises(DataError, match="out: is there already"):
        converted(root)


def test_convert_dataset__disk_refuses__nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.yolo(tmp_path / "set")

    def refuse(*paths: str) -> None:
        raise OSError(28, "No space left on device", paths[1])

    monkeypatch.setattr("shutil.copyfile", refuse)
    with pytest.raises(OSError, match="No space"):
        converted(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
