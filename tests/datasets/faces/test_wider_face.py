import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.wider_face import WiderFace, read_boxes, read_landmarks

PARADE, RIOT, EMPTY = "0--Parade/0_a.jpg", "1--Riot/1_b.jpg", "1--Riot/1_c.jpg"
BOXES = f"""{PARADE}
3
10 10 20 24 0 0 0 0 0 0 
50 12 16 16 2 0 0 0 1 0 
80 70 4 4 0 0 0 1 0 0 
{RIOT}
2
5 5 30 30 1 0 0 0 2 0 
70 60 0 9 0 0 0 0 0 0 
{EMPTY}
0
0 0 0 0 0 0 0 0 0 0 
"""  # noqa: W291 (as in the release)
POINTS = "15 15 0.0 25 15 0.0 20 20 0.0 16 28 1.0 24 28 0.0"
LABELS = f"""# {PARADE}
10 10 20 24 {POINTS} 0.82
50 12 16 16 {" ".join(["-1.0"] * 15)} 0.3
# {RIOT}
6 5 30 30 {POINTS} 0.5
"""  # fmt: skip


def cells(values: list) -> np.ndarray:
    """A MATLAB cell of N rows."""
    made = np.empty((len(values), 1), dtype=object)
    for row, value in enumerate(values):
        made[row, 0] = value
    return made


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for name in (PARADE, RIOT, EMPTY):
            path = tmp_path / f"WIDER_{split}" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 80), "gray").save(path)
        folder = tmp_path / "wider_face_split"
        folder.mkdir(exist_ok=True)
        (folder / f"wider_face_{split}_bbx_gt.txt").write_text(BOXES)
    (tmp_path / "label.txt").write_text(LABELS)
    truth = tmp_path / "eval_tools" / "ground_truth"
    truth.mkdir(parents=True)
    events = cells(["0--Parade", "1--Riot"])
    files = cells([cells(["0_a"]), cells(["1_b", "1_c"])])
    table = [
        [np.array([[10, 10, 20, 24], [50, 12, 16, 16], [80, 70, 4, 4]], float)],
        [np.array([[5, 5, 30, 30], [70, 60, 0, 9]], float), np.zeros((0, 4))],
    ]
    boxes = cells([cells(rows) for rows in table])
    savemat(
        truth / "wider_face_val.mat",
        {"event_list": events, "file_list": files, "face_bbx_list": boxes},
    )
    for subset, kept in (("easy", [[1], []]), ("medium", [[1], [1]]), ("hard", [[1, 2], [1]])):
        lists = [np.array(rows, float).reshape(-1, 1) for rows in kept]
        lists = cells([cells(lists[:1]), cells([lists[1], np.zeros((0, 1))])])
        savemat(truth / f"wider_{subset}_val.mat", {"gt_list": lists})
    return tmp_path


def test_split__boxes_and_regions_to_ignore(root) -> None:
    faces = WiderFace(root).read()
    assert faces.images.file_names.tolist() == [PARADE, RIOT, EMPTY]
    assert faces.images.sizes_hw.tolist() == [[80, 100]] * 3
    assert np.diff(faces.starts).tolist() == [3, 1, 0]
    assert faces.boxes.xyxy.tolist() == [
        [10, 10, 30, 34], [50, 12, 66, 28], [80, 70, 84, 74], [5, 5, 35, 35]
    ]  # fmt: skip
    assert faces.boxes.crowd.tolist() == [False, False, True, False]
    assert faces.categories == {1: "face"}
    assert "1 boxes without size" in faces.summary()
    assert "4 boxes (of which 1 crowd regions), 1 with landmarks" in faces.summary()


@pytest.mark.parametrize(
    ("options", "ignored"),
    [({"max_blur": 1}, [1, 2]), ({"max_occlusion": 0}, [1, 2, 3]), ({"max_blur": 0}, [1, 2, 3])],
)
def test_split__unclear_faces_can_be_ignored(root, options, ignored) -> None:
    faces = WiderFace(root, **options).read()
    assert np.flatnonzero(faces.boxes.crowd).tolist() == ignored


def test_landmarks__belong_to_the_boxes_of_the_split(root, caplog) -> None:
    faces = WiderFace(root).read()
    points = faces.boxes.landmarks
    assert points is not None
    expected = [[15, 15], [25, 15], [20, 20], [16, 28], [24, 28]]
    assert points[0].tolist() == expected
    assert np.isnan(points[1:]).all()  # not annotated, not in the file, and of another box
    assert "1 faces with landmarks are none of those of train" in caplog.text
    assert WiderFace(root, "val").read().boxes.landmarks is None


def test_subsets__ids_of_the_faces_that_count(root) -> None:
    faces = WiderFace(root, "val").read()
    assert faces.boxes.ids.tolist() == [1, 2, 3, 4]
    assert faces.subsets == {"easy": {1}, "medium": {1, 4}, "hard": {1, 2, 4}}
    assert faces.select(np.array([1])).subsets == faces.subsets
    assert WiderFace(root, "train").read().subsets == {}


def test_subsets__not_there__are_not_measured(root, caplog) -> None:
    (root / "eval_tools" / "ground_truth" / "wider_hard_val.mat").unlink()
    assert WiderFace(root, "val").read().subsets == {}
    assert "easy, medium and hard are not measured" in caplog.text


def test_subsets__of_another_release__are_refused(root) -> None:
    file = root / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    file.write_text(BOXES.replace("5 5 30 30", "5 6 30 30"))
    with pytest.raises(DataError, match=r"faces of 1--Riot/1_b.jpg are not those of"):
        WiderFace(root, "val").read()


def test_missing_image__is_an_error_or_counted(root) -> None:
    (root / "WIDER_train" / "images" / RIOT).unlink()
    with pytest.raises(DataError, match=r"1_b\.jpg: no such file"):
        WiderFace(root).read()
    faces = WiderFace(root).read("skip")
    assert faces.images.file_names.tolist() == [PARADE, EMPTY]
    assert len(faces.boxes.ids) == 3
    assert "1 missing images" in faces.summary()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0--Parade/0_a.jpg\nmany\n", ":1: .*not a file name below the images and a number"),
        ("../secret.jpg\n1\n1 1 1 1 0 0 0 0 0 0\n", ":1: "),
        ("a.jpg\n2\n1 1 1 1 0 0 0 0 0 0\n", ":4: .*is not a face of 10 numbers"),
        ("a.jpg\n1\n1 1 1 x 0 0 0 0 0 0\n", ":3: '1 1 1 x 0"),
        ("a.jpg\n1\n1 1 1 nan 0 0 0 0 0 0\n", ":3: '1 1 1 nan 0"),
        ("a.jpg\n0\na.jpg\n0\n", "a.jpg is listed twice"),
    ],
)
def test_boxes__faulty__names_the_line(tmp_path, content, message) -> None:
    (tmp_path / "faces.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_boxes(tmp_path / "faces.txt")


def test_boxes__absent_or_empty(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no such file\. Unpack WIDER FACE"):
        read_boxes(tmp_path / "faces.txt")
    (tmp_path / "faces.txt").write_text("")
    assert read_boxes(tmp_path / "faces.txt").names == []


@pytest.mark.parametrize("line", ["1 2 3 4 5", "a b c d", "1 2 3"])
def test_landmarks__faulty__names_the_line(tmp_path, line) -> None:
    (tmp_path / "label.txt").write_text(f"# a.jpg\n{line}\n")
    with pytest.raises(DataError, match=r"label\.txt:2: .*is neither"):
        read_landmarks(tmp_path / "label.txt")
    (tmp_path / "label.txt").write_text("1 2 3 4\n")
    with pytest.raises(DataError, match=r"label\.txt:1: "):
        read_landmarks(tmp_path / "label.txt")
