"""YOLO's files: what each line and each key means, and one fault at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.datasets.data_errors import FaultKind
from mobilevision.datasets.detection.annotations import Annotations
from mobilevision.datasets.detection.layout import SPLITS, find_layout
from mobilevision.datasets.detection.yolo import find_yolo, label_file, parse_line, read_yolo
from mobilevision.datasets.errors import DataError

from .layouts import yolo


def write(root: Path, labels: str, yaml: str = "names: [cat, dog]") -> None:
    """One image of 200x100 pixels with these labels."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(exist_ok=True)
    Image.new("RGB", (200, 100)).save(root / "images" / "a.png")
    (root / "labels" / "a.txt").write_text(labels)
    (root / "data.yaml").write_text(yaml)


def read(root: Path, on_error: str = "raise", **options) -> Annotations:
    return read_yolo(find_yolo(root, SPLITS)["train"], on_error=on_error, **options)


@pytest.mark.parametrize(
    ("line", "label", "box"),
    [
        ("0 0.5 0.5 1 1", 0, (0, 0, 1, 1)),
        ("  1   .25 0.5 0.5 0.2  ", 1, (0, 0.4, 0.5, 0.2)),
        ("1.000e+00 0.5 0.5 0.5 0.5", 1, (0.25, 0.25, 0.5, 0.5)),
        ("2 0.1 0.2 0.5 0.9 0.3 0.1", 2, (0.1, 0.1, 0.4, 0.8)),
        ("3 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6", 3, (0.1, 0.2, 0.2, 0.4)),
    ],
)
def test_parse_line__box_or_polygon__class_and_box(line: str, label: int, box: tuple) -> None:
    assert parse_line(line)[0] == label
    np.testing.assert_allclose(parse_line(line)[1], box, atol=1e-12)


def test_parse_line__keypoints_behind_the_box__left_out() -> None:
    line = "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 1"
    np.testing.assert_allclose(parse_line(line, 6)[1], (0.4, 0.4, 0.2, 0.2))
    np.testing.assert_allclose(parse_line("0 0.5 0.5 0.2 0.2", 6)[1], (0.4, 0.4, 0.2, 0.2))


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("0 0.5 0.5 1", FaultKind.MALFORMED, "4 numbers; wanted are the class and four"),
        ("0", FaultKind.MALFORMED, "1 numbers"),
        ("0 0.5 0.5 1 1 0.9", FaultKind.MALFORMED, "confidence at the end marks results"),
        ("0 0.5 0.5 1 1 0.9 0.9 0.1", FaultKind.MALFORMED, "three corners or more"),
        ("cat 0.5 0.5 1 1", FaultKind.MALFORMED, "'cat 0.5 0.5 1 1' are not numbers alone"),
        ("0,0.5,0.5,1,1", FaultKind.MALFORMED, "not numbers alone"),
        ("0.5 0.5 0.5 1 1", FaultKind.MALFORMED, "the class is 0.5"),
        ("-1 0.5 0.5 1 1", FaultKind.MALFORMED, "the class is -1"),
        ("inf 0.5 0.5 1 1", FaultKind.MALFORMED, "the class is inf"),
        ("2 0.5 0.5 1 1", FaultKind.UNKNOWN_CATEGORY, "class 2, but"),
        ("0 0.5 nan 1 1", FaultKind.NOT_FINITE, "y=nan"),
        ("0 0.5 0.5 inf 1 0 0", FaultKind.NOT_FINITE, "x=nan"),
        ("0 0.5 0.5 0 1", FaultKind.NO_SIZE, "w=0"),
        ("0 0.5 0.5 -1 1", FaultKind.NO_SIZE, "w=-200"),
        ("0 0.5 0.5 1.02 1", FaultKind.OUTSIDE, "in an image of 200x100"),
        ("0 100 50 200 100", FaultKind.OUTSIDE, "x=0 y=0 w=40000"),
    ],
)
def test_read_yolo__faulty_line__file_and_line_named_or_counted(
    tmp_path: Path, line: str, kind: FaultKind, says: str
) -> None:
    write(tmp_path, f"1 0.5 0.5 0.5 0.5\n\n{line}\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'labels' / 'a.txt'}, line 3")
    assert says in message or kind is FaultKind.OUTSIDE
    data = read(tmp_path, "skip")
    assert data.faults.counts == {kind: 1}
    assert data.boxes.xyxy.tolist() == [[50, 25, 150, 75]]


def test_read_yolo__rounded_to_six_decimals__within_the_tolerance(tmp_path: Path) -> None:
    write(tmp_path, "0 0.5 0.500002 1.000004 1.0\n")
    data = read(tmp_path)
    np.testing.assert_allclose(data.boxes.xyxy, [[0, 2e-4, 200, 100]], atol=1e-6)
    assert data.boxes.areas[0] == pytest.approx(200.0008 * 100)


def test_read_yolo__turned_by_exif__boxes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    write(tmp_path, "0 0.5 0.5 0.5 1\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(tmp_path / "images" / "a.png", exif=exif)
    data = read(tmp_path)
    assert data.images.sizes_hw.tolist() == [[200, 100]]
    assert data.boxes.xyxy.tolist() == [[25, 0, 75, 200]]


def test_read_yolo__some_classes_wanted__others_set_aside(tmp_path: Path) -> None:
    write(tmp_path, "0 0.5 0.5 1 1\n1 0.5 0.5 1 1\n")
    data = read(tmp_path, categories={7: "dog"})
    assert data.categories == {7: "dog"}
    assert data.boxes.labels.tolist() == [0]
    assert data.set_aside == 1
    with pytest.raises(DataError, match="none of the wanted classes emu, but cat, dog"):
        read(tmp_path, categories={7: "emu"})


@pytest.mark.parametrize(
    ("yaml", "names"),
    [
        ("names: [cat, dog]\nnc: 2", {0: "cat", 1: "dog"}),
        ("names: {1: dog, 0: cat}", {0: "cat", 1: "dog"}),
        ("names:\n  0: cat\n  3: dog\n", {0: "cat", 3: "dog"}),
        ("names: [1, 2.5]", {0: "1", 1: "2.5"}),
        ("names: ['no', 'yes']", {0: "no", 1: "yes"}),
    ],
)
def test_find_yolo__names__list_or_object(tmp_path: Path, yaml: str, names: dict) -> None:
    write(tmp_path, "", yaml)
    part = find_yolo(tmp_path, SPLITS)["train"][0]
    assert part.classes.names == names
    assert read_yolo([part]).categories == {key + 1: name for key, name in names.items()}


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("names: [cat", "not YAML that can be read"),
        ("- cat", "holds no keys"),
        ("", "holds no keys"),
        ("a: &a [*a]\nnames: *a", "has 0: "),
        ("names: cat", "should be the list of class names, not 'cat'"),
        ("train: images", "not None"),
        ("names: []", "not \\[\\]"),
        ("names: [yes, no]", "has 0: True, wanted is a number from 0 on and a name"),
        ("names: {a: cat}", "has 'a': 'cat'"),
        ("names: {-1: cat}", "has -1: 'cat'"),
        ("names: [cat, cat]", "two classes are called 'cat'"),
        ("names: [cat]\nnc: 2", '"nc" is 2, but "names" has 1 names'),
        ("names: [cat]\nkpt_shape: 3", '"kpt_shape" is 3'),
        ("names: [cat]\ntrain: pictures/train", "train is pictures/train, which is not below"),
        ("names: [cat]\ntrain: [images, more]", "train is more, which is not below"),
    ],
)
def test_find_yolo__faulty_yaml__named(tmp_path: Path, yaml: str, says: str) -> None:
    write(tmp_path, "", yaml)
    with pytest.raises(DataError, match=says) as caught:
        find_yolo(tmp_path, SPLITS)
    assert str(tmp_path / "data.yaml") in str(caught.value)


def test_find_yolo__split_that_was_not_exported__left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "", "names: [cat]\ntrain: images\nval: ../valid/images")
    assert list(find_yolo(tmp_path, SPLITS)) == ["train"]
    assert "val is ../valid/images, which is not there; left out" in caplog.text


def test_read_yolo__made_on_windows_and_macos__paths_found_and_hidden_files_ignored(
    tmp_path: Path,
) -> None:
    (tmp_path / "train").mkdir()
    yaml = "names: [cat]\r\ntrain: C:\\my sets\\cats\\train\\images\r\n"
    write(tmp_path / "train", "0 0.5 0.5 1 1\r\n", yaml)
    (tmp_path / "train" / "data.yaml").rename(tmp_path / "data.yaml")
    for name in ("images/._a.png", "labels/._a.txt", "images/.ipynb_checkpoints/a.png"):
        path = tmp_path / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    assert read(tmp_path).images.file_names.tolist() == ["a.png"]


def test_find_yolo__path_that_leads_out__followed_from_a_given_file_alone(tmp_path: Path) -> None:
    write(tmp_path, "0 0.5 0.5 1 1", "path: ../elsewhere\ntrain: images\nnames: [cat]")
    (tmp_path.parent / "elsewhere" / "images").mkdir(parents=True)
    assert find_yolo(tmp_path, SPLITS)["train"][0].source == tmp_path / "images"
    given = find_yolo(tmp_path / "data.yaml", SPLITS)["train"][0]
    assert given.source.resolve() == (tmp_path.parent / "elsewhere" / "images").resolve()


def test_find_yolo__two_files_name_classes__one_has_to_be_given(tmp_path: Path) -> None:
    write(tmp_path, "")
    for name in ("one.yaml", "two.yml"):
        (tmp_path / name).write_text("names: [cat]")
    assert find_layout(tmp_path).title == "YOLO (data.yaml)"
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"one\.yaml, two\.yml all name classes"):
        find_yolo(tmp_path, SPLITS)
    assert find_layout(tmp_path / "two.yml").title == "YOLO (two.yml)"
    assert find_layout(tmp_path / "two.yml").root == tmp_path


@pytest.mark.parametrize(
    ("write_file", "says"),
    [
        (lambda root: (root / "obj.names").unlink(), r"there is no file data/obj\.names"),
        (lambda root: (root / "obj.names").write_text(" \n"), r"obj\.names: names no classes"),
        (lambda root: (root / "obj.names").write_bytes(b"\xff"), r"obj\.names: not a readable"),
        (lambda root: (root / "train.txt").unlink(), r"train is data/train\.txt, which is not"),
    ],
)
def test_find_yolo__darknet_without_a_file__named(
    tmp_path: Path, write_file: Callable[[Path], object], says: str
) -> None:
    (tmp_path / "obj.data").write_text("train = data/train.txt\nnames = data/obj.names\n")
    (tmp_path / "obj.names").write_text("cat")
    (tmp_path / "train.txt").write_text("data/a.jpg")
    write_file(tmp_path)
    with pytest.raises(DataError, match=says):
        find_yolo(tmp_path, SPLITS)


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("images/b.png", FaultKind.MISSING, r"train\.txt, line 2: .*b\.png: no such image"),
        ("../b.png", FaultKind.MALFORMED, r"line 2: the image '\.\./b\.png' leads out"),
        ("images/a.png", FaultKind.DUPLICATE_IMAGE, r"a\.png: is listed twice"),
    ],
)
def test_read_yolo__faulty_list__named_or_counted(
    tmp_path: Path, line: str, kind: FaultKind, says: str
) -> None:
    write(tmp_path, "0 0.5 0.5 1 1\n", "names: [cat]\ntrain: train.txt")
    (tmp_path / "train.txt").write_text(f"images/a.png\n{line}\n\n")
    with pytest.raises(DataError, match=says):
        read(tmp_path)
    data = read(tmp_path, "skip")
    assert data.faults.counts == {kind: 1}
    assert data.images.file_names.tolist() == ["images/a.png"]


def test_read_yolo__label_without_image__named_or_counted(tmp_path: Path) -> None:
    write(tmp_path, "")
    (tmp_path / "labels" / "b.txt").touch()
    (tmp_path / "labels" / "classes.txt").touch()
    with pytest.raises(DataError, match=r"b\.txt: there is no image of this name"):
        read(tmp_path)
    assert read(tmp_path, "skip").faults.counts == {FaultKind.UNKNOWN_IMAGE: 1}


def test_read_yolo__nothing_labeled__error_says_where_it_looked(tmp_path: Path) -> None:
    write(tmp_path, "")
    (tmp_path / "labels" / "a.txt").unlink()
    assert find_yolo(tmp_path, SPLITS) == {}
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]")
    with pytest.raises(DataError, match=r"none of 1 images has a label file; looked for .*a\.txt"):
        read(tmp_path, "skip")
    assert len(read(tmp_path, unlabeled="background")) == 1


def test_read_yolo__label_file_that_is_no_text__named_or_counted(tmp_path: Path) -> None:
    write(tmp_path, "")
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.txt: not a readable label file"):
        read(tmp_path)
    assert read(tmp_path, "skip").faults.counts == {FaultKind.MALFORMED: 1}


def test_read_yolo__image_that_is_none__named_or_counted(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "images/train/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        read(tmp_path)
    data = read(tmp_path, "skip")
    assert data.faults.counts == {FaultKind.UNREADABLE: 1}
    assert data.images.file_names.tolist() == ["b c.png", "d.png"]


def test_read_yolo__no_images__error(tmp_path: Path) -> None:
    write(tmp_path, "", "names: [cat]\ntrain: images")
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DataError, match="images: no images"):
        read(tmp_path)


def test_label_file__last_folder_called_images__or_beside(tmp_path: Path) -> None:
    image = tmp_path / "images" / "x" / "images" / "a.b.png"
    apart = tmp_path / "images" / "x" / "labels" / "a.b.txt"
    assert label_file(image) == apart
    assert label_file(tmp_path / "pictures" / "a.png") == tmp_path / "pictures" / "a.txt"
    image.parent.mkdir(parents=True)
    image.with_suffix(".txt").touch()
    assert label_file(image) == image.with_suffix(".txt")
    apart.parent.mkdir()
    apart.touch()
    assert label_file(image) == apart
