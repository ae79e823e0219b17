"""One truth in every layout reads the same; what is not there, or not right, is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilevision.datasets.detection.annotations import Annotations
from mobilevision.datasets.detection.layout import (
    ReadOptions,
    Split,
    find_layout,
    named_layout,
    read_ids,
)
from mobilevision.datasets.errors import DataError

from . import layouts
from .layouts import CLASSES, DIVIDED, TRUTH, UNDIVIDED, WHOLE, Scene

Write = Callable[..., Path]
Document = dict[str, Any]


def require_truth(annotations: Annotations, scenes: list[Scene]) -> None:
    """Assert that annotations are these scenes: files, sizes, classes and boxes."""
    assert tuple(annotations.categories.values()) == CLASSES
    rows = {Path(path).stem: row for row, path in enumerate(annotations.images.paths)}
    assert sorted(rows) == sorted(scene.name for scene in scenes)
    for scene in scenes:
        row = rows[scene.name]
        assert Path(annotations.images.paths[row]).is_file()
        assert tuple(annotations.images.sizes_hw[row][::-1]) == scene.size_wh
        boxes = annotations.boxes_of(row)
        assert [CLASSES[label] for label in boxes.labels] == [name for name, *_ in scene.boxes]
        expected = np.array([box for _, *box in scene.boxes]).reshape(-1, 4)
        np.testing.assert_allclose(boxes.xywh, expected, atol=1e-9)
        assert not boxes.crowd.any()
    assert len(set(annotations.boxes.ids)) == len(annotations.boxes.ids)
    assert annotations.faults.total == 0


@pytest.mark.parametrize("name", DIVIDED)
def test_find_layout__one_truth_in_two_splits__reads_the_same(tmp_path: Path, name: str) -> None:
    DIVIDED[name](tmp_path)
    found = find_layout(tmp_path)
    assert found.format == name[: len(found.format)]
    assert list(found.splits) == ["train", "val"]
    assert found.others == ()
    for split, scenes in TRUTH.items():
        categories = dict(enumerate(CLASSES)) if found.format == "voc" else None
        require_truth(found.read(split, categories), scenes)


@pytest.mark.parametrize("name", UNDIVIDED)
def test_find_layout__one_truth_undivided__reads_the_same(tmp_path: Path, name: str) -> None:
    UNDIVIDED[name](tmp_path)
    found = find_layout(tmp_path)
    assert found.format == name[: len(found.format)]
    assert list(found.splits) == ["train"]
    assert found.others == ()
    require_truth(found.read("train"), WHOLE)


@pytest.mark.parametrize(
    ("files", "folders", "title", "splits"),
    [
        (
            ["annotations/instances_train2017.json", "annotations/instances_val2017.json"],
            ["train2017", "val2017"],
            "COCO 2017",
            {
                "train": Split("annotations/instances_train2017.json", "train2017"),
                "val": Split("annotations/instances_val2017.json", "val2017"),
            },
        ),
        (
            ["annotations/instances_train2014.json"],
            ["images/train2014"],
            "COCO 2014",
            {"train": Split("annotations/instances_train2014.json", "images/train2014")},
        ),
        (
            ["annotations/train.json", "annotations/val.json", "annotations/test.json"],
            ["images"],
            "COCO, annotations by split",
            {
                name: Split(f"annotations/{name}.json", "images")
                for name in ("train", "val", "test")
            },
        ),
        (
            ["train/_annotations.coco.json", "valid/_annotations.coco.json"],
            [],
            "COCO of Roboflow",
            {
                "train": Split("train/_annotations.coco.json", "train"),
                "val": Split("valid/_annotations.coco.json", "valid"),
            },
        ),
    ],
)
def test_find_layout__known__found(
    tmp_path: Path, files: list[str], folders: list[str], title: str, splits: dict[str, Split]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    found = find_layout(tmp_path)
    assert found.title == title
    assert found.splits == {split: [part] for split, part in splits.items()}
    assert found.others == ()


@pytest.mark.parametrize("there", [True, False])
def test_find_layout__nothing_there__error_says_what_to_do(tmp_path: Path, there: bool) -> None:
    root = tmp_path if there else tmp_path / "absent"
    with pytest.raises(DataError) as caught:
        find_layout(root)
    message = str(caught.value)
    assert str(root) in message
    assert "annotations/instances_{split}2017.json" in message
    assert f"mobilevision data download coco --root {root}" in message
    assert "lightning fit -c configs/quickstart.yaml" in message


@pytest.mark.parametrize("text", ["10\n20\n", "[20, 10]", "10 20", " 20\r\n10\r\n20"])
def test_read_ids__either_format__the_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    assert read_ids(tmp_path / "ids.txt").tolist() == [10, 20]


@pytest.mark.parametrize(
    "text", ["", "a.jpg", "[1, 2", "[1.5]", '["a"]', "[]", "[1180591620717411303424]"]
)
def test_read_ids__anything_else__error_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=r"ids\.txt.*on each line"):
        read_ids(tmp_path / "ids.txt")


def test_read_ids__absent__error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file of image ids"):
        read_ids(tmp_path / "ids.txt")


def test_layout_read__the_papers_split__partitions_the_second_part(
    write_coco: Write, document: Document
) -> None:
    other = {
        "images": [entry | {"id": entry["id"] + 100} for entry in document["images"]],
        "annotations": [
            entry | {"id": entry["id"] + 100, "image_id": entry["image_id"] + 100}
            for entry in document["annotations"]
        ],
        "categories": document["categories"],
    }
    root = write_coco(train2014=document, val2014=other)
    (root / "minival.txt").write_text("110\n")
    first = Split("annotations/train2014.json", "images")
    rest = Split("annotations/val2014.json", "images", exclude_ids="minival.txt")
    minival = Split("annotations/val2014.json", "images", ids="minival.txt")
    found = named_layout(root, {"train": [first, rest], "val": minival, "test": [first, first]})
    assert found.read("train").images.ids.tolist() == [10, 20, 5, 120, 105]
    held_out = found.read("val")
    assert held_out.images.ids.tolist() == [110]
    assert held_out.boxes.ids.tolist() == [102, 107]
    with pytest.raises(DataError, match="image ids occur in more than one part"):
        found.read("test")


def test_layout_read__file_absent__error_says_what_to_do(write_coco: Write) -> None:
    root = write_coco()
    with pytest.raises(DataError, match="mobilevision data download coco --root"):
        named_layout(root, {"train": Split("annotations/train.json", "images")}).read("train")


@pytest.mark.real_data
def test_find_layout__real_sets__by_root_alone(real_data: Path) -> None:
    raccoons = find_layout(real_data / "raccoon")
    assert raccoons.title == "COCO, annotations by split"
    assert raccoons.splits == {
        name: [Split(f"annotations/{name}.json", "images")] for name in ("train", "val")
    }
    assert find_layout(real_data / "coco").title == "COCO 2017"


# --- names, several layouts, none


def test_find_layout__two_layouts__the_first_and_said(tmp_path: Path) -> None:
    layouts.voc(tmp_path)
    layouts.yolo(tmp_path)
    found = find_layout(tmp_path)
    assert (found.format, found.others) == ("yolo", ("Pascal VOC",))
    assert "It looks like Pascal VOC, too: data.layout=coco, yolo or voc" in str(found)
    assert find_layout(tmp_path, "voc").format == "voc"
    with pytest.raises(DataError, match="layout is 'kitti'; choose coco, yolo, voc"):
        find_layout(tmp_path, "kitti")  # type: ignore[arg-type]


def test_find_layout__broken_file_of_a_second_layout__does_not_matter(tmp_path: Path) -> None:
    layouts.coco(tmp_path)
    (tmp_path / "data.yaml").write_text("[")
    assert find_layout(tmp_path).format == "coco"
    with pytest.raises(DataError, match=r"data\.yaml: not YAML"):
        find_layout(tmp_path, "yolo")


def test_find_layout__names_of_splits__instead_of_the_usual_ones(tmp_path: Path) -> None:
    layouts.voc(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").rename(tmp_path / "ImageSets/Main/mine.txt")
    found = named_layout(tmp_path, {"train": "mine", "val": None})
    require_truth(found.read("train"), TRUTH["train"])
    with pytest.raises(DataError, match=r"\{split\} is yours\)"):
        named_layout(tmp_path, {"train": "yours"})
    with pytest.raises(DataError, match=r"data\.val is a name and data\.train files"):
        named_layout(tmp_path, {"train": Split("a.json", "."), "val": "val"})


def test_find_layout__unknown__first_entries_shown(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").touch()
    (tmp_path / "00").mkdir()
    with pytest.raises(DataError) as caught:
        find_layout(tmp_path)
    message = str(caught.value)
    assert "The folder holds 00/, 00.jpg, 01.jpg," in message
    assert "08.jpg and 3 more." in message
    for place in ("data.yaml", "obj.data", "result.json", "ImageSets/Main/{split}.txt"):
        assert place in message


def test_find_layout__list_of_classes_beside_xml__is_not_yolo(tmp_path: Path) -> None:
    layouts.voc_label_studio(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    assert find_layout(tmp_path).title == "Pascal VOC"


def test_find_layout__one_folder_too_high__the_right_one_named(tmp_path: Path) -> None:
    layouts.yolo_roboflow(tmp_path / "animals")
    with pytest.raises(DataError, match=r"animals looks like YOLO \(data\.yaml\): give --data"):
        find_layout(tmp_path)


def test_find_layout__labels_without_class_names__said(tmp_path: Path) -> None:
    layouts.yolo_label_studio(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"YOLO's labels are there, but no data\.yaml"):
        find_layout(tmp_path)


@pytest.mark.parametrize("name", ["yolo", "voc of Roboflow", "voc"])
def test_layout_read__half_labeled__error_or_chosen(tmp_path: Path, name: str) -> None:
    DIVIDED[name](tmp_path)
    suffix = ".txt" if name == "yolo" else ".xml"
    (label,) = (path for path in tmp_path.rglob(f"d{suffix}"))
    label.unlink()
    found = find_layout(tmp_path)
    with pytest.raises(
        DataError, match=r"d\.png: has no label file \(1 of 3 images have none\)\. Label"
    ) as caught:
        found.read("train")
    assert "unlabeled=background" in str(caught.value)
    for options in (ReadOptions("skip"), ReadOptions(unlabeled="skip")):
        left = found.read("train", None, options)
        assert len(left) == 2
        assert "left out: 1 images without a label file" in left.summary()
    kept = found.read("train", None, ReadOptions(unlabeled="background"))
    assert [Path(path).name for path in kept.images.paths] == ["a.png", "b c.png", "d.png"]
    assert np.diff(kept.starts)[2] == 0
    assert kept.faults.total == 0
    with pytest.raises(DataError, match="unlabeled is 'ignore'"):
        found.read("train", None, ReadOptions(unlabeled="ignore"))  # type: ignore[arg-type]
