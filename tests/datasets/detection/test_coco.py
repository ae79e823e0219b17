import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from mobilevision.datasets.data_errors import FaultKind
from mobilevision.datasets.detection import coco
from mobilevision.datasets.detection.coco import COCO_CATEGORIES, load_document, read_coco
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.files import FileNames

Write = Callable[..., Path]
Document = dict[str, Any]


def read(root: Path, **options: Any) -> coco.Annotations:
    return read_coco(root / "annotations" / "train.json", root / "images", **options)


def test_read_coco__ids_with_gaps_and_out_of_order__one_map(
    write_coco: Write, document: Document
) -> None:
    data = read(write_coco(train=document))
    assert list(data.categories.items()) == [(3, "cat"), (9, "dog")]
    assert data.images.ids.tolist() == [10, 20, 5]
    assert data.boxes_of(0).labels.tolist() == [0, 1]
    assert data.boxes_of(0).ids.tolist() == [2, 7]
    assert data.boxes_of(0).xyxy.tolist() == [[10.5, 20, 40.5, 60], [60, 10, 100, 80]]
    assert data.boxes_of(1).crowd.tolist() == [True]
    assert data.boxes_of(2).xyxy.shape == (0, 4)
    assert data.boxes.xyxy.dtype == np.float32
    assert data.name == "set/annotations/train.json (3 images)"


def test_read_coco__area_and_iscrowd_absent__box_area_and_false(
    write_coco: Write, document: Document
) -> None:
    del document["annotations"][1]["area"], document["annotations"][0]["iscrowd"]
    data = read(write_coco(train=document))
    assert data.boxes_of(0).areas.tolist() == [1200, 2800]
    assert not data.boxes.crowd.any()


def test_read_coco__categories_chosen__in_their_order_and_others_counted(
    write_coco: Write, document: Document
) -> None:
    data = read(write_coco(train=document), categories={9: "dog"})
    assert data.boxes.ids.tolist() == [7, 4]
    assert data.boxes.labels.tolist() == [0, 0]
    assert data.set_aside == 1
    assert "1 boxes of other classes set aside" in data.summary()
    swapped = read(write_coco(train=document), categories={9: "dog", 3: "cat"})
    assert swapped.boxes_of(0).labels.tolist() == [1, 0]


def test_read_coco__no_annotations__all_images_are_background(
    write_coco: Write, document: Document
) -> None:
    document["annotations"] = []
    data = read(write_coco(train=document))
    assert len(data) == 3
    assert data.boxes.xyxy.shape == (0, 4)
    assert data.ground_truth["annotations"] == []


def test_ground_truth__pycocotools_reads_it__as_the_file(
    write_coco: Write, document: Document
) -> None:
    data = read(write_coco(train=document))
    ours, theirs = COCO(), COCO(write_coco(train=document) / "annotations" / "train.json")
    ours.dataset = data.ground_truth
    ours.createIndex()
    assert sorted(ours.anns) == sorted(theirs.anns)
    for key, annotation in theirs.anns.items():
        del annotation["segmentation"]
        assert ours.anns[key] == annotation
    assert {k: v["name"] for k, v in ours.cats.items()} == {3: "cat", 9: "dog"}
    assert ours.imgs[5]["file_name"] == "c.jpg"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{broken", "not a JSON file"),
        ("", "not a JSON file"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", "holds a JSON list"),
        ('{"images": [], "categories": []}', 'lacks the list "annotations"'),
        ('{"images": {}, "annotations": [], "categories": []}', 'lacks the list "images"'),
        ('{"images": [], "annotations": [], "categories": []}', '"categories" is empty'),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', '"name"'),
        ('{"images": [], "annotations": [], "categories": [3]}', "the category 3"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_read_coco__file_of_wrong_form__error_names_it(
    write_coco: Write, text: str, says: str, on_error: str
) -> None:
    root = write_coco(train=text)
    with pytest.raises(DataError) as caught:
        read(root, on_error=on_error)
    assert says in str(caught.value)
    assert str(root / "annotations" / "train.json") in str(caught.value)


def test_read_coco__file_absent__error_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.json: no such file"):
        read(tmp_path)


@pytest.mark.parametrize("key", ["id", "name"])
def test_read_coco__category_twice__error(write_coco: Write, document: Document, key: str) -> None:
    document["categories"][0][key] = document["categories"][1][key]
    with pytest.raises(DataError, match="another one has, too"):
        read(write_coco(train=document))


def test_read_coco__other_categories_than_asked_for__error(
    write_coco: Write, document: Document
) -> None:
    with pytest.raises(DataError, match="category 3 should be 'bird' but is 'cat'"):
        read(write_coco(train=document), categories={3: "bird"})


def spoil(place: str, index: int, **changes: Any) -> tuple[str, int, dict[str, Any]]:
    """Which entry of which list to change; ... deletes a key."""
    return place, index, changes


FAULTS = [
    (spoil("annotations", 1, bbox=[10, 10, 0, 5]), FaultKind.NO_SIZE, "annotation 2 "),
    (spoil("annotations", 1, bbox=[10, 10, 5, -5]), FaultKind.NO_SIZE, "w=5 h=-5"),
    (spoil("annotations", 1, bbox=[10, float("nan"), 5, 5]), FaultKind.NOT_FINITE, "y=nan"),
    (spoil("annotations", 1, bbox=[10, 1, float("inf"), 5]), FaultKind.NOT_FINITE, "w=inf"),
    (spoil("annotations", 1, bbox=[10, 10, 91.1, 5]), FaultKind.OUTSIDE, "image of 100x80"),
    (spoil("annotations", 1, bbox=[-1.1, 10, 9, 5]), FaultKind.OUTSIDE, "x=-1.1"),
    (spoil("annotations", 1, bbox=[10, 80.1, 5, 0.5]), FaultKind.OUTSIDE, "y=80.1"),
    (spoil("annotations", 1, bbox=[200, 200, 5, 5]), FaultKind.OUTSIDE, "x=200"),
    (spoil("annotations", 1, category_id=4), FaultKind.UNKNOWN_CATEGORY, "has category 4"),
    (spoil("annotations", 1, image_id=11), FaultKind.UNKNOWN_IMAGE, "belongs to image 11"),
    (spoil("annotations", 1, bbox=...), FaultKind.MALFORMED, 'annotation 2 lacks "bbox"'),
    (spoil("annotations", 1, bbox=[1, 2, 3]), FaultKind.MALFORMED, "not four numbers"),
    (spoil("annotations", 1, bbox=["one", 2, 3, 4]), FaultKind.MALFORMED, "not four numbers"),
    (spoil("annotations", 1, bbox=None), FaultKind.MALFORMED, "not four numbers"),
    (spoil("annotations", 1, bbox=[1, 2, 3, None]), FaultKind.MALFORMED, "not four numbers"),
    (spoil("annotations", 1, id=...), FaultKind.MALFORMED, 'number 2 of the list lacks "id"'),
    (spoil("annotations", 1, id=2.5), FaultKind.MALFORMED, "not an integer"),
    (spoil("annotations", 1, id=2**70), FaultKind.MALFORMED, "not an integer"),
    (spoil("annotations", 1, image_id="ten"), FaultKind.MALFORMED, "not an integer"),
    (spoil("images", 2, id=10), FaultKind.DUPLICATE_IMAGE, "image id 10 (c.jpg)"),
    (spoil("images", 2, width=0), FaultKind.MALFORMED, "not an integer above zero"),
    (spoil("images", 2, height=...), FaultKind.MISSING, "image without a size"),
    (spoil("images", 2, height=None), FaultKind.MISSING, "image without a size"),
    (spoil("images", 2, file_name="../../c.jpg"), FaultKind.MALFORMED, "leads out of the dataset"),
    (spoil("images", 2, file_name="a/../../c.jpg"), FaultKind.MALFORMED, "leads out of the"),
    (spoil("images", 2, file_name=7), FaultKind.MALFORMED, "not a name"),
    (spoil("images", 2, file_name=""), FaultKind.MALFORMED, "not a name"),
]


@pytest.mark.parametrize(("damage", "kind", "says"), FAULTS)
def test_read_coco__faulty_entry__raises_or_counts(
    write_coco: Write,
    document: Document,
    damage: tuple[str, int, dict[str, Any]],
    kind: FaultKind,
    says: str,
) -> None:
    place, index, changes = damage
    entry = document[place][index] | changes
    document[place][index] = {key: value for key, value in entry.items() if value is not ...}
    root = write_coco(draw=False, train=document)
    with pytest.raises(DataError) as caught:
        read(root)
    message = str(caught.value)
    assert says in message
    assert str(root / "annotations" / "train.json") in message
    assert kind.fix in message
    data = read(root, on_error="skip")
    assert data.faults.counts == {kind: 1}
    assert says in data.faults.messages[kind][0]
    assert f"left out: 1 {kind.title}" in data.summary()
    left = (2, 3) if place == "images" else (3, 2)
    assert (len(data), len(data.boxes.ids)) == left


def test_read_coco__entry_not_an_object__counted(write_coco: Write, document: Document) -> None:
    document["annotations"].append([1, 2])
    data = read(write_coco(train=document), on_error="skip")
    assert data.faults.counts == {FaultKind.MALFORMED: 1}
    assert "annotation number 4 of the list is not an object" in str(data.faults.messages)


def test_read_coco__many_faults__counted_in_full_and_told_in_part(
    write_coco: Write, document: Document
) -> None:
    entry = document["annotations"][0]
    document["annotations"] += [entry | {"id": 100 + i, "bbox": [0, 0, 0, 0]} for i in range(250)]
    root = write_coco(train=document)
    data = read(root, on_error="skip")
    assert data.faults.counts == {FaultKind.NO_SIZE: 250}
    assert len(data.faults.messages[FaultKind.NO_SIZE]) == 100
    with pytest.raises(DataError, match="and 249 more such faults"):
        read(root)


def test_read_coco__less_than_a_pixel_beyond__clipped_and_ground_truth_kept(
    write_coco: Write, document: Document
) -> None:
    document["annotations"][1]["bbox"] = [-0.5, 20, 101.4, 60.9]
    data = read(write_coco(train=document))
    assert data.boxes_of(0).xyxy[0].tolist() == [0, 20, 100, 80]
    assert data.ground_truth["annotations"][0]["bbox"] == [-0.5, 20, 101.4, 60.9]
    assert not data.faults.total


def test_read_coco__unknown_on_error__error(write_coco: Write, document: Document) -> None:
    with pytest.raises(DataError, match="choose"):
        read(write_coco(train=document), on_error="ignore")


def test_read_coco__released_file__faults_left_out_and_counted(
    write_coco: Write, document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    document["annotations"][1]["bbox"] = [10, 10, 5, 0]
    document["annotations"][2]["bbox"] = [60, 10, 45, 70]
    root = write_coco(train=document)
    size = (root / "annotations" / "train.json").stat().st_size
    monkeypatch.setitem(coco.OFFICIAL_FILES, "train.json", (size, "COCO train1999"))
    data = read(root)
    assert data.faults.counts == {FaultKind.NO_SIZE: 1}
    assert data.boxes_of(0).xyxy.tolist() == [[60, 10, 100, 80]]
    assert data.name == "COCO train1999 (3 images)"
    assert data.faults.on_error == "raise"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("split", "images", "boxes", "crowd", "empty"),
    [("train2017", 166, 1580, 15, 0), ("val2017", 188, 1692, 20, 2)],
)
def test_read_coco__real_subset__everything_is_there(
    real_data: Path, split: str, images: int, boxes: int, crowd: int, empty: int
) -> None:
    file = real_data / "coco" / "annotations" / f"instances_{split}.json"
    data = read_coco(file, real_data / "coco" / split)
    assert (len(data), len(data.boxes.ids), data.boxes.crowd.sum()) == (images, boxes, crowd)
    assert (np.diff(data.starts) == 0).sum() == empty
    assert data.categories == COCO_CATEGORIES
    assert list(data.categories) == list(COCO_CATEGORIES)
    expected = {entry["id"]: entry for entry in json.loads(file.read_text())["annotations"]}
    for entry in data.ground_truth["annotations"]:
        original = expected.pop(entry["id"])
        del original["segmentation"]
        assert entry == original
    assert not expected


@pytest.mark.real_data
@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 160, 174), ("val", 40, 43)])
def test_read_coco__raccoon__everything_is_there(
    real_data: Path, split: str, images: int, boxes: int
) -> None:
    root = real_data / "raccoon"
    data = read_coco(root / "annotations" / f"{split}.json", root / "images")
    assert (len(data), len(data.boxes.ids)) == (images, boxes)
    assert data.categories == {1: "raccoon"}


# --- what labeling tools write


def test_read_coco__whole_numbers_in_another_guise__read(
    write_coco: Write, document: Document
) -> None:
    root = write_coco(train=document)
    expected = read(root)
    for entry in document["images"]:
        entry |= {"id": str(entry["id"]), "height": float(entry["height"])}
    for entry in document["annotations"]:
        entry["image_id"] = float(entry["image_id"])
        entry["bbox"] = [str(side) for side in entry["bbox"]]
        entry |= {"category_id": str(entry["category_id"]), "iscrowd": entry["iscrowd"] or None}
    for entry in document["categories"]:
        entry["id"] = f"{entry['id']}"
    (root / "annotations" / "train.json").write_text(json.dumps(document))
    data = read(root)
    assert data.categories == expected.categories
    for ours, theirs in zip(data.boxes, expected.boxes, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_read_coco__no_sizes__read_from_the_images_and_counted(
    write_coco: Write, document: Document, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_coco(train=document)
    expected = read(root)
    del document["images"][0]["height"], document["images"][0]["width"]
    document["images"][1]["width"] = None
    (root / "annotations" / "train.json").write_text(json.dumps(document))
    with caplog.at_level("WARNING", "lightning.pytorch.mobilevision.data"):
        data = read(root)
    np.testing.assert_array_equal(data.images.sizes_hw, expected.images.sizes_hw)
    assert "2 images have no width and height" in caplog.text


@pytest.mark.parametrize("ids", [(1, 1, 1), (4, 2, 4)])
def test_read_coco__repeated_annotation_ids__numbered_anew_and_counted(
    write_coco: Write, document: Document, ids: tuple[int, ...]
) -> None:
    document["annotations"].append(dict(document["annotations"][1]))
    for entry, number in zip(document["annotations"], (*ids, ids[1]), strict=True):
        entry["id"] = number
    root = write_coco(train=document)
    with pytest.raises(DataError, match="is used twice"):
        read(root)
    data = read(root, on_error="skip")
    assert len(data.boxes.ids) == 3, "one annotation is there twice, and no other box is lost"
    assert len(set(data.boxes.ids.tolist())) == 3
    assert data.faults.counts == {FaultKind.DUPLICATE_ANNOTATION: len((*ids, 0)) - len(set(ids))}
    assert "left out" in " ".join(data.faults.messages[FaultKind.DUPLICATE_ANNOTATION])


def test_read_coco__repeated_ids_of_64_bits__images_are_told_apart(
    write_coco: Write, document: Document
) -> None:
    large = 2**63 - 1
    for entry, number in zip(document["images"][:2], (large, large - 1), strict=True):
        entry["id"] = number
    for entry, owner in zip(document["annotations"], (large, large - 1, large), strict=True):
        entry |= {"id": large, "image_id": owner, "category_id": 9, "bbox": [1, 2, 3, 4]}
    root = write_coco(train=document)
    data = read(root, on_error="skip")
    assert np.diff(data.starts).tolist() == [1, 1, 0], "the third box is the first one again"
    assert data.boxes.ids.min() > 0
    assert len(set(data.boxes.ids.tolist())) == 2


@pytest.mark.parametrize("number", [2**70, 1.5, "1.5", True, None, [1]])
def test_read_coco__category_id_that_is_none__named(
    write_coco: Write, document: Document, number: Any
) -> None:
    document["categories"][0]["id"] = number
    with pytest.raises(DataError, match=r"train\.json: the category .* integer"):
        read(write_coco(train=document))


def test_read_coco__file_names_of_other_machines__found_and_said(
    write_coco: Write, document: Document, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["C:\\data\\set\\a.jpg", "/home/ada/set/b.jpg", "c.jpg"]
    root = write_coco(train=document)
    file = root / "annotations" / "train.json"
    paths = read(root).images.paths.tolist()
    for entry, name in zip(document["images"], names, strict=True):
        entry["file_name"] = name
    file.write_text(json.dumps(document))
    with caplog.at_level("WARNING", "lightning.pytorch.mobilevision.data"):
        data = read(root)
    assert data.images.paths.tolist() == paths
    assert "2 file names are paths of another machine" in caplog.text
    assert len(caplog.records) == 1


def test_file_names__backslashes_and_real_names(tmp_path: Path) -> None:
    names = FileNames(tmp_path)
    assert names.locate("a\\b.jpg") == tmp_path / "a" / "b.jpg"
    (tmp_path / "a\\b.jpg").write_bytes(b"")
    assert names.locate("a\\b.jpg") == tmp_path / "a\\b.jpg", "a file is really called so"
    assert names.locate(str(tmp_path / "a\\b.jpg")) == tmp_path / "a\\b.jpg"
    assert names.locate("a/../b.jpg") == tmp_path / "a/../b.jpg"
    for name in ("../b.jpg", "..\\b.jpg", "a/../../b.jpg", ".."):
        with pytest.raises(ValueError, match="leads out"):
            names.locate(name)


def test_read_coco__very_deep_json__named(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"deep\.json: not a JSON file"):
        load_document(file)
