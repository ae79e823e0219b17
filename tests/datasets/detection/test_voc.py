import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilevision.datasets.data_errors import FaultKind
from mobilevision.datasets.detection.coco import read_coco
from mobilevision.datasets.detection.layout import SPLITS
from mobilevision.datasets.detection.module import DetectionDataModule
from mobilevision.datasets.detection.voc import (
    VOC_NAMES,
    VocPart,
    find_voc,
    read_voc,
    read_voc_file,
)
from mobilevision.datasets.errors import DataError

Write = Callable[..., Path]


def find(root: Path, split: str) -> list[VocPart]:
    return find_voc(root, SPLITS)[split]


def xml(*objects: str, size: str = "<size><width>100</width><height>80</height></size>") -> str:
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def item(name: str, box: tuple[Any, Any, Any, Any], difficult: int = 0) -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def write(folder: Path, **files: str) -> VocPart:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        (folder / f"{stem}.xml").write_text(text)
    return VocPart(folder, folder)


def test_read_voc__folders_and_hidden_files__images_named_below_their_folder(
    tmp_path: Path,
) -> None:
    files = tmp_path / "Annotations"
    for stem in ("one/a", "two/a"):
        write(files / stem[:3], a=xml(item("cat", (1, 1, 9, 9)), size=""))
        image = tmp_path / "JPEGImages" / f"{stem}.PNG"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(image)
    (files / "one" / "a.xml").rename(files / "one" / "a.XML")
    (files / "._a.xml").write_bytes(b"\0\5\x16\7")
    listing = tmp_path / "ImageSets" / "Main" / "train.txt"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(b"one/a\r\ntwo/a\r\n")
    data = read_voc(find(tmp_path, "train"))
    assert data.images.file_names.tolist() == ["one/a.PNG", "two/a.PNG"]
    assert data.images.sizes_hw.tolist() == [[10, 20]] * 2
    shutil.rmtree(tmp_path / "ImageSets")
    write(files, b=xml(item("cat", (1, 1, 9, 9))))
    assert read_voc(find(tmp_path, "train")).images.file_names.tolist() == ["b.jpg"]


def test_read_voc__first_pixel_and_whole_image__zero_based_and_exclusive(tmp_path: Path) -> None:
    part = write(tmp_path, a=xml(item("cat", (1, 1, 1, 1)), item("dog", (1, 1, 100, 80))))
    data = read_voc([part], voc_classes=True)
    assert data.boxes.xyxy.tolist() == [[0, 0, 1, 1], [0, 0, 100, 80]]
    assert data.boxes.areas.tolist() == [1, 8000]
    assert data.categories == dict(enumerate(VOC_NAMES, start=1))
    assert [VOC_NAMES[label] for label in data.boxes.labels] == ["cat", "dog"]


def test_read_voc__difficult__ignored_region_unless_told_otherwise(tmp_path: Path) -> None:
    part = write(tmp_path, a=xml(item("cat", (5, 5, 9, 9), 1), item("dog", (5, 5, 9, 9))))
    assert read_voc([part]).boxes.crowd.tolist() == [True, False]
    assert read_voc([part], ignore_difficult=False).boxes.crowd.tolist() == [False, False]


def test_read_voc__own_classes__sorted_from_one(tmp_path: Path) -> None:
    part = write(tmp_path, a=xml(item("yak", (5, 5, 9, 9)), item("emu", (5, 5, 9, 9))), b=xml())
    data = read_voc([part])
    assert data.categories == {1: "emu", 2: "yak"}
    assert data.boxes.labels.tolist() == [1, 0]
    assert np.diff(data.starts).tolist() == [2, 0]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_read_voc__same_scenes_as_coco__same_boxes(
    tmp_path: Path, write_coco: Write, data: st.DataObject
) -> None:
    folder = tmp_path / "voc"
    for stale in folder.glob("*.xml"):
        stale.unlink()
    images, annotations = [], []
    for image_id in range(1, data.draw(st.integers(1, 3)) + 1):
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "width": 100, "height": 80})
        objects = []
        for _ in range(data.draw(st.integers(0, 3))):
            x, y = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 79))
            w, h = data.draw(st.integers(1, 100 - x)), data.draw(st.integers(1, 80 - y))
            name, hidden = data.draw(st.sampled_from(["cat", "dog"])), data.draw(st.booleans())
            objects.append(item(name, (x + 1, y + 1, x + w, y + h), int(hidden)))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "bbox": [x, y, w, h],
                 "category_id": 8 if name == "cat" else 12, "iscrowd": int(hidden)}
            )  # fmt: skip
        write(folder, **{str(image_id): xml(*objects)})
    categories = [{"id": i, "name": name} for i, name in enumerate(VOC_NAMES, start=1)]
    root = write_coco(
        draw=False,
        train={"images": images, "annotations": annotations, "categories": categories},
    )
    coco = read_coco(root / "annotations" / "train.json", folder)
    voc = read_voc([VocPart(folder, folder)], categories=coco.categories)
    assert voc.ground_truth["annotations"] == coco.ground_truth["annotations"]
    for ours, theirs in zip(voc.boxes, coco.boxes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert voc.images.paths.tolist() == coco.images.paths.tolist()


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    "]><annotation><filename>&b;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("<annotation>", FaultKind.MALFORMED, "no element found"),
        ("", FaultKind.MALFORMED, "no element found"),
        (BOMB, FaultKind.MALFORMED, "declares a document type"),
        (BOMB.encode("utf-16").decode("latin-1"), FaultKind.MALFORMED, "bad.xml"),
        (xml("<object><name>cat</name></object>"), FaultKind.MALFORMED, 'lacks "bndbox/xmin"'),
        (xml("<object><bndbox/></object>"), FaultKind.MALFORMED, 'lacks its "name"'),
        (xml(item("cat", ("one", 1, 2, 2))), FaultKind.MALFORMED, "'one', not a number"),
        (xml(item("cat", (5, 5, 4, 9))), FaultKind.NO_SIZE, "object 1 (cat)"),
        (xml(item("cat", (5, 5, "nan", 9))), FaultKind.NOT_FINITE, "w=nan"),
        (xml(item("cat", (5, 5, 102, 9))), FaultKind.OUTSIDE, "image of 100x80"),
        (xml(item("tiger", (5, 5, 9, 9))), FaultKind.UNKNOWN_CATEGORY, "object 1 (tiger)"),
        (xml(size=""), FaultKind.UNREADABLE, "bad.jpg: no such file"),
        (xml(size="<size><width>0</width><height>0</height></size>"), FaultKind.UNREADABLE, "bad"),
        (xml(size="<size><width>inf</width><height>9</height></size>"), FaultKind.MALFORMED, "bad"),
    ],
)
def test_read_voc__faulty_file__raises_or_counts(
    tmp_path: Path, text: str, kind: FaultKind, says: str
) -> None:
    part = write(tmp_path, good=xml(item("dog", (5, 5, 9, 9))))
    (tmp_path / "bad.xml").write_bytes(text.encode("latin-1"))
    categories = dict(enumerate(VOC_NAMES, start=1))
    with pytest.raises(DataError) as caught:
        read_voc([part], categories)
    assert says in str(caught.value)
    assert "bad" in str(caught.value)
    data = read_voc([part], categories, on_error="skip")
    assert data.faults.counts == {kind: 1}
    assert len(data.boxes.ids) == 1


def test_read_voc__document_type__refused_before_any_entity(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(BOMB)
    with pytest.raises(DataError, match="declares a document type"):
        read_voc_file(tmp_path / "a.xml")


def test_read_voc__size_not_stated__taken_from_the_image(tmp_path: Path) -> None:
    part = write(tmp_path, a=xml(item("cat", (5, 5, 30, 20)), size=""))
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    data = read_voc([part])
    assert data.images.sizes_hw.tolist() == [[20, 30]]
    assert data.images.paths.tolist() == [str(tmp_path / "a.png")]


def test_read_voc__image_of_another_name__the_file_beside_it_wins(tmp_path: Path) -> None:
    text = xml().replace("<size>", "<filename>/old/place/y.png</filename><size>", 1)
    part = write(tmp_path, a=text, b=text)
    (tmp_path / "b.jpeg").touch()
    data = read_voc([part], {1: "cat"})
    assert data.images.file_names.tolist() == ["y.png", "b.jpeg"]


def test_read_voc__nothing_there__error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no XML file"):
        read_voc([VocPart(tmp_path, tmp_path)])


def test_find_voc_split__several_years__put_together(tmp_path: Path) -> None:
    for year, stems in (("VOC2007", "000001\n000003  1\n"), ("VOC2012", "2008_1\n")):
        sets = tmp_path / year / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        (sets / "train.txt").write_text(stems)
    one = xml(item("cat", (5, 5, 9, 9)))
    write(tmp_path / "VOC2007" / "Annotations", **{"000001": one, "000002": one, "000003": one})
    write(tmp_path / "VOC2012" / "Annotations", **{"2008_1": one})
    data = read_voc(find(tmp_path, "train"))
    assert [Path(path).name for path in data.images.paths] == [
        "000001.jpg", "000003.jpg", "2008_1.jpg"
    ]  # fmt: skip
    assert data.images.ids.tolist() == [1, 2, 3]
    assert data.boxes.ids.tolist() == [1, 2, 3]
    alone = read_voc(find(tmp_path / "VOC2012", "train"))
    assert len(alone) == 1


def test_find_voc_split__image_set_names_an_absent_file__raises_or_counts(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a\nb\n")
    write(tmp_path / "Annotations", a=xml(item("cat", (5, 5, 9, 9))))
    parts = find(tmp_path, "val")
    with pytest.raises(DataError, match=r"b\.xml: the image set names it"):
        read_voc(parts)
    assert read_voc(parts, on_error="skip").faults.counts == {FaultKind.UNKNOWN_IMAGE: 1}


def test_find_voc_split__flat_folders__found_under_either_name(tmp_path: Path) -> None:
    write(tmp_path / "train", a=xml())
    write(tmp_path / "valid", b=xml())
    assert find(tmp_path, "train") == [VocPart(tmp_path / "train", tmp_path / "train")]
    assert find(tmp_path, "val")[0].annotations == tmp_path / "valid"
    assert "test" not in find_voc(tmp_path, SPLITS)


# --- what labeling tools write


def test_read_voc__one_of_vocs_classes_alone__is_the_only_class(tmp_path: Path) -> None:
    part = write(tmp_path, a=xml(item("cat", (5, 5, 9, 9))))
    assert read_voc([part]).categories == {1: "cat"}
    assert len(read_voc([part], voc_classes=True).categories) == 20
    database = "<source><database>The VOC2007 Database</database></source>"
    official = write(tmp_path / "voc", a=xml(database, item("cat", (5, 5, 9, 9))))
    assert len(read_voc([official]).categories) == 20
    assert read_voc([official], voc_classes=False).categories == {1: "cat"}
    unknown = "<source><database>Unknown</database></source>"
    own = write(tmp_path / "own", a=xml(unknown, item("cat", (5, 5, 9, 9))))
    assert read_voc([own]).categories == {1: "cat"}


def test_voc_data_module__classes_taken__are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, a=xml(item("cat", (5, 5, 9, 9))))
    with caplog.at_level("INFO", "lightning.pytorch"):
        assert DetectionDataModule(tmp_path).categories == {1: "cat"}
    assert "Classes (1): cat" in caplog.text


@pytest.mark.parametrize("value", ["", "Unspecified", "0", " 0 "])
def test_read_voc_file__difficult_not_stated__is_not_difficult(tmp_path: Path, value: str) -> None:
    text = xml(item("cat", (5, 5, 9, 9))).replace("<difficult>0<", f"<difficult>{value}<")
    write(tmp_path, a=text)
    assert not read_voc_file(tmp_path / "a.xml").objects[0].difficult


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "euc-kr", "big5", "iso-8859-1"])
def test_read_voc_file__declared_encoding__decoded(tmp_path: Path, encoding: str) -> None:
    name = {"gb2312": "\u732b", "shift_jis": "\u732b", "euc-kr": "\uac00", "big5": "\u8c93"}.get(
        encoding, "caf\u00e9"
    )
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + xml(item(name, (5, 5, 9, 9)))
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert read_voc_file(tmp_path / "a.xml").objects[0].name == name


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "gb2312"])
def test_read_voc__encoding_that_cannot_be__one_file_is_left_out(
    tmp_path: Path, encoding: str
) -> None:
    part = write(tmp_path, good=xml(item("cat", (5, 5, 9, 9))))
    bad = (
        f'<?xml version="1.0" encoding="{encoding}"?>'.encode()
        + b"<annotation>\xff\xff</annotation>"
    )
    (tmp_path / "bad.xml").write_bytes(bad)
    with pytest.raises(DataError, match=r"bad\.xml"):
        read_voc([part])
    data = read_voc([part], on_error="skip")
    assert len(data) == 1
    assert data.faults.counts == {FaultKind.MALFORMED: 1}


def test_find_voc_split__names_with_spaces_marks_and_extensions(tmp_path: Path) -> None:
    names = ["my photo (1)", "plain", "with.jpg", "two 1", "three"]
    write(tmp_path / "Annotations", **{name: xml() for name in names})
    sets = tmp_path / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    lines = ["my photo (1)", "plain.jpg", "with.jpg", "two 1", "three -1", "gone 1"]
    (sets / "train.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    (part,) = find(tmp_path, "train")
    assert part.stems == ("my photo (1)", "plain", "with.jpg", "two 1", "three", "gone")


def test_find_voc_split__set_that_is_no_text__named(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match=r"train\.txt: not a readable image set"):
        find(tmp_path, "train")
