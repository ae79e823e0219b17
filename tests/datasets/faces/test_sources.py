"""Sources of faces."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.sources import CelebAFaces, FolderFaces, LfwFaces
from mobilevision.datasets.vectors import VectorTable, write_vectors


def image(path: Path, seed: int = 0, size_hw: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Ada/Ada_0001.jpg", "Ada/Ada_0002.png", "Bo/Bo_0001.jpg", "loose.jpg",
                 ".cache/x.jpg"):  # fmt: skip
        image(tmp_path / name)
    (tmp_path / "Bo" / "notes.txt").write_text("no image")
    return tmp_path


def test_folder__people_are_its_folders(folder: Path) -> None:
    faces = FolderFaces(folder).read()
    assert faces.files == ("Ada/Ada_0001.jpg", "Ada/Ada_0002.png", "Bo/Bo_0001.jpg", "loose.jpg")
    assert faces.identities.tolist() == [0, 0, 1, -1]
    assert faces.people == ("Ada", "Bo")
    assert faces.landmarks_xy is None
    assert faces.pairs is None
    assert faces.paths[0] == str(folder / "Ada" / "Ada_0001.jpg")


def test_folder__landmarks_come_from_a_table_and_files_without_face_are_left_out(
    folder: Path,
) -> None:
    table = folder / "landmarks.csv"
    vectors = np.arange(20, dtype=np.float32).reshape(2, 10)
    write_vectors(table, VectorTable(np.array(["loose.jpg", "Bo/Bo_0001.jpg"]), vectors))
    faces = FolderFaces(folder, table).read()
    assert faces.files == ("Bo/Bo_0001.jpg", "loose.jpg")
    assert faces.landmarks_xy is not None
    assert faces.landmarks_xy[0].tolist() == [[10, 11], [12, 13], [14, 15], [16, 17], [18, 19]]


def test_folder__landmarks_of_another_length(folder: Path) -> None:
    write_vectors(folder / "t.npz", VectorTable(np.array(["loose.jpg"]), np.ones((1, 4), "f4")))
    with pytest.raises(DataError, match="10 numbers"):
        FolderFaces(folder, folder / "t.npz").read()


def test_folder__absent_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        FolderFaces(tmp_path / "absent").read()
    with pytest.raises(DataError, match="no images"):
        FolderFaces(tmp_path).read()
    with pytest.raises(DataError, match="exclude each other"):
        FolderFaces(tmp_path, pairs="pairs.txt", make_pairs=3)


def test_lfw__has_the_pairs_of_its_list(folder: Path) -> None:
    (folder / "pairs.txt").write_text("1\nAda 1 2\nAda 2 Bo 1\n")
    pairs = LfwFaces(folder).read().pairs
    assert pairs is not None
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 1], [1, 2])


def write_celeba(root: Path) -> None:
    rows = {"000001.jpg": (0, 7), "000002.jpg": (1, 5), "000003.jpg": (0, 7), "000004.jpg": (2, 9)}
    points = "69 111 108 111 88 135 73 152 105 152"
    for name in rows:
        image(root / "img_align_celeba" / name, size_hw=(218, 178))
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, (part, _) in rows.items())
    )
    (root / "identity_CelebA.txt").write_text(
        "".join(f"{name} {person}\n" for name, (_, person) in rows.items())
    )
    (root / "list_landmarks_align_celeba.txt").write_text(
        "4\n" + " ".join(f"c{i}" for i in range(10)) + "\n"
        + "".join(f"{name} {points}\n" for name in rows)
    )  # fmt: skip
    (root / "list_attr_celeba.txt").write_text(
        "4\nMale\n" + "".join(f"{name} 1\n" for name in rows)
    )


def test_celeba__parts_people_and_landmarks(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    faces = CelebAFaces(tmp_path, ["train", "test"]).read()
    assert faces.files == ("000001.jpg", "000003.jpg", "000004.jpg")
    assert faces.people == ("7", "9")
    assert faces.identities.tolist() == [0, 0, 1]
    assert faces.landmarks_xy is not None
    assert faces.landmarks_xy.shape == (3, 5, 2)
    assert faces.landmarks_xy[2, 1].tolist() == [108, 111]
    assert faces.labels is not None
    assert faces.labels.attributes == ("Male",)
    assert [Path(path).name for path in faces.labels.paths] == list(faces.files)


def test_celeba__without_identities_nobody_is_known(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    (tmp_path / "identity_CelebA.txt").unlink()
    assert CelebAFaces(tmp_path).read().identities.tolist() == [-1, -1]
    with pytest.raises(DataError, match=r"pairs are drawn from people, .* no identity_CelebA\.txt"):
        CelebAFaces(tmp_path, make_pairs=3).read()


def test_celeba__what_is_missing_is_named(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    (tmp_path / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 listed images are not there: 000003\.jpg"):
        CelebAFaces(tmp_path).read()
    (tmp_path / "list_landmarks_align_celeba.txt").unlink()
    with pytest.raises(DataError, match="no list_landmarks_align_celeba"):
        CelebAFaces(tmp_path, ["val"]).read()
    with pytest.raises(DataError, match="take some of train, val, test"):
        CelebAFaces(tmp_path, ["training"])  # type: ignore[list-item]


@pytest.mark.real_data
def test_celeba__real_parts(real_data: Path) -> None:
    counts = {
        part: (len(faces.files), len(faces.people))
        for part in ("train", "val", "test")
        for faces in [CelebAFaces(real_data / "celeba", [part]).read()]
    }
    assert counts == {"train": (4444, 217), "val": (569, 24), "test": (1238, 58)}
