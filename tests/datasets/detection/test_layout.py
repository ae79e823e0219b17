from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilevision.datasets.detection.layout import Split, find_layout, read_ids, read_split
from mobilevision.datasets.errors import DataError

Write = Callable[..., Path]
Document = dict[str, Any]


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
            "annotations by split",
            {
                name: Split(f"annotations/{name}.json", "images")
                for name in ("train", "val", "test")
            },
        ),
        (
            ["train/_annotations.coco.json", "valid/_annotations.coco.json"],
            [],
            "Roboflow",
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
    assert find_layout(tmp_path) == (title, splits)


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


def test_read_split__the_papers_split__partitions_the_second_part(
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
    assert read_split(root, [first, rest]).images.ids.tolist() == [10, 20, 5, 120, 105]
    held_out = read_split(root, [minival])
    assert held_out.images.ids.tolist() == [110]
    assert held_out.boxes.ids.tolist() == [102, 107]
    with pytest.raises(DataError, match="image ids occur in more than one part"):
        read_split(root, [first, first])


def test_read_split__file_absent__error_says_what_to_do(write_coco: Write) -> None:
    root = write_coco()
    with pytest.raises(DataError, match="mobilevision data download coco --root"):
        read_split(root, [Split("annotations/train.json", "images")])


@pytest.mark.real_data
def test_find_layout__real_sets__by_root_alone(real_data: Path) -> None:
    assert find_layout(real_data / "raccoon") == (
        "annotations by split",
        {name: Split(f"annotations/{name}.json", "images") for name in ("train", "val")},
    )
    assert find_layout(real_data / "coco")[0] == "COCO 2017"
