import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevision.datasets.data_errors import FaultKind, Faults
from mobilevision.datasets.detection.annotations import (
    Annotations,
    BoxTable,
    ImageTable,
    choose,
    find,
    merge,
)
from mobilevision.datasets.detection.coco import read_coco
from mobilevision.datasets.errors import DataError

Write = Callable[..., Path]
Document = dict[str, Any]


def build(title: str, image_ids: list[int], owners: list[int], first_box: int = 0) -> Annotations:
    """Images of 10x10; box j is (0, 0, 1 + j % 9, 1)."""
    count = len(owners)
    names = np.array([f"{i}.jpg" for i in image_ids], dtype=object)
    sizes_hw = np.full((len(image_ids), 2), 10)
    images = ImageTable(np.array(image_ids, dtype=np.int64), names, names, sizes_hw)
    xywh = np.array([[0, 0, 1 + j % 9, 1] for j in range(count)], dtype=float).reshape(-1, 4)
    boxes = BoxTable(
        ids=np.arange(first_box, first_box + count),
        xywh=xywh,
        xyxy=xywh.astype(np.float32),
        labels=np.zeros(count, dtype=np.int64),
        crowd=np.zeros(count, dtype=bool),
        areas=xywh[:, 2],
    )
    return Annotations.build(
        title,
        {1: "thing"},
        images,
        boxes,
        owners=np.array(owners, dtype=np.int64),
        faults=Faults("raise"),
    )


@given(data=st.data(), count=st.integers(1, 8))
def test_select__any_images_in_any_order__keep_their_boxes(data: st.DataObject, count: int) -> None:
    owners = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
    whole = build("t", list(range(100, 100 + count)), owners)
    chosen = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    part = whole.select(np.array(chosen, dtype=int))
    assert part.images.ids.tolist() == [100 + index for index in chosen]
    for place, index in enumerate(chosen):
        expected = [box for box, owner in enumerate(owners) if owner == index]
        assert part.boxes_of(place).ids.tolist() == expected
    assert part.owners.tolist() == [
        place for place, index in enumerate(chosen) for owner in owners if owner == index
    ]


def test_merge__two_parts__images_and_boxes_of_both() -> None:
    first, second = build("a", [1, 2], [1, 1]), build("b", [7], [0], first_box=50)
    both = merge([first, second])
    assert both.name == "a + b (3 images)"
    assert [both.boxes_of(index).ids.tolist() for index in range(3)] == [[], [0, 1], [50]]
    assert [entry["image_id"] for entry in both.ground_truth["annotations"]] == [2, 2, 7]


@pytest.mark.parametrize(
    ("second", "says"),
    [(build("b", [2], []), "image ids"), (build("b", [3], [0]), "annotation ids")],
)
def test_merge__ids_in_common__error(second: Annotations, says: str) -> None:
    with pytest.raises(DataError, match=f"a \\+ b: 1 {says} occur in more than one part"):
        merge([build("a", [1, 2], [1]), second])


def test_merge__other_categories__error(write_coco: Write, document: Document) -> None:
    root = write_coco(train=document)
    data = read_coco(root / "annotations" / "train.json", root / "images")
    with pytest.raises(DataError, match="different categories"):
        merge([build("a", [1], []), data])


def test_choose__listed_ids__kept_or_left_out() -> None:
    whole, ids = build("a", [5, 1, 9], [0, 1, 2]), np.array([1, 9])
    assert choose(whole, ids, "ids.txt", keep=True).images.ids.tolist() == [1, 9]
    assert choose(whole, ids, "ids.txt", keep=False).images.ids.tolist() == [5]


def test_choose__unknown_id__raises_or_counts() -> None:
    whole, ids = build("a", [5, 1], []), np.array([1, 4])
    with pytest.raises(DataError, match=r"ids\.txt: image id 4 is not in a"):
        choose(whole, ids, "ids.txt", keep=True)
    whole.faults.on_error = "skip"
    part = choose(whole, ids, "ids.txt", keep=True)
    assert part.images.ids.tolist() == [1]
    assert part.faults.counts == {FaultKind.UNKNOWN_IMAGE: 1}
    assert not whole.faults.counts


@pytest.mark.parametrize(
    ("title", "count", "name"),
    [
        ("COCO val2017", 5000, "COCO val2017 (minival: the 5,000 images of val2017)"),
        ("COCO val2014", 8059, "COCO val2014 (the paper's minival: 8,059 images of val2014)"),
        ("COCO val2017", 4999, "COCO val2017 (4,999 images)"),
    ],
)
def test_name__minivals__told_apart(title: str, count: int, name: str) -> None:
    assert build(title, list(range(count)), []).name == name


def test_pickle__ground_truth_cached__does_not_travel() -> None:
    data = build("a", [1], [0])
    truth = data.ground_truth
    twin = pickle.loads(pickle.dumps(data))
    assert "ground_truth" not in vars(twin)
    assert twin.ground_truth == truth


def test_find__nothing_to_find_in__nothing_found() -> None:
    assert find(np.array([], dtype=int), np.array([3]))[1].tolist() == [False]
