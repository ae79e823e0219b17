import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.datasets.faces.labels import LANDMARK_COLUMNS


@pytest.fixture
def folder(drawn_celeba: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(drawn_celeba, tmp_path / "celeba"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_read_celeba__published_layout(drawn_celeba: Path) -> None:
    data = read_celeba(drawn_celeba)
    assert data.table.attributes == ("Red_Face", "Wearing_Hat", "Never")
    assert data.table.labels[:3].tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert [len(data.split(name).paths) for name in ("train", "val", "test")] == [12, 6, 6]
    assert data.table.identities is not None
    assert data.table.identities[:5].tolist() == [0, 0, 0, 1, 1]
    assert data.table.landmarks is not None
    assert data.table.landmarks.shape == (24, 5, 2)
    assert "12 train (published: 162,770)" in data.sizes()


def test_read_celeba__kaggle_layout__same_but_identities(folder: Path) -> None:
    published = read_celeba(folder)
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    rows = [["image_id", *lines[1].split()], *(line.split() for line in lines[2:])]
    (folder / "list_attr_celeba.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    for name, skipped, heading in (
        ("list_eval_partition", 0, "image_id,partition"),
        ("list_landmarks_align_celeba", 2, f"image_id,{','.join(LANDMARK_COLUMNS)}"),
    ):
        body = (folder / f"{name}.txt").read_text().splitlines()[skipped:]
        text = "\n".join([heading, *(line.replace(" ", ",") for line in body)])
        (folder / f"{name}.csv").write_text(text)
    for path in folder.glob("*.txt"):
        path.unlink()
    inner = folder / "img_align_celeba" / "img_align_celeba"
    shutil.move(folder / "img_align_celeba", folder / "moved")
    shutil.move(folder / "moved", inner)
    kaggle = read_celeba(folder)
    assert kaggle.table.attributes == published.table.attributes
    assert np.array_equal(kaggle.table.labels, published.table.labels)
    assert np.array_equal(kaggle.partitions, published.partitions)
    assert kaggle.table.landmarks is not None
    assert published.table.landmarks is not None
    assert np.array_equal(kaggle.table.landmarks, published.table.landmarks)
    assert kaggle.table.identities is None
    assert Path(kaggle.table.paths[0]) == inner / "000001.jpg"


def test_read_celeba__lists_in_another_order__joined_by_name(folder: Path) -> None:
    before = read_celeba(folder)
    path = folder / "list_eval_partition.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n999999.jpg 2\n")
    assert np.array_equal(read_celeba(folder).partitions, before.partitions)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "000002.jpg -1  1 -1", "000002.jpg -1  3 -1",
         "Wearing_Hat of 000002.jpg is 3"),
        ("list_attr_celeba.txt", "000002.jpg -1  1 -1", "000002.jpg -1 -1", "line 4: 2 values"),
        ("list_attr_celeba.txt", "000002.jpg", "000001.jpg", "000001.jpg is there 2 times"),
        ("list_attr_celeba.txt", "000002.jpg -1", "000002.jpg no", "wanted are numbers"),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 4", "partitions are 0, 1 and 2"),
        ("list_eval_partition.txt", "000002.jpg 0\n", "", r"does not know 000002\.jpg"),
        ("identity_CelebA.txt", "000002.jpg", "000077.jpg", r"does not know 000002\.jpg"),
    ],
)  # fmt: skip
def test_read_celeba__faulty_list__named(
    folder: Path, file: str, old: str, new: str, message: str
) -> None:
    change(folder / file, old, new)
    with pytest.raises(DataError, match=message):
        read_celeba(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("list_attr_celeba.txt", "there is no list_attr_celeba.txt"),
        ("list_eval_partition.txt", "there is no list_eval_partition.txt"),
        ("img_align_celeba", "no folder img_align_celeba"),
    ],
)
def test_read_celeba__part_absent__named(folder: Path, name: str, message: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(DataError, match=message):
        read_celeba(folder)


def test_read_celeba__without_identities_and_landmarks__reads(folder: Path) -> None:
    (folder / "identity_CelebA.txt").unlink()
    (folder / "list_landmarks_align_celeba.txt").unlink()
    data = read_celeba(folder)
    assert data.table.identities is None
    assert data.table.landmarks is None


def test_split__empty_partition__named(folder: Path) -> None:
    path = folder / "list_eval_partition.txt"
    path.write_text(path.read_text().replace(".jpg 2", ".jpg 0"))
    with pytest.raises(DataError, match="no images in the test partition"):
        read_celeba(folder).split("test")


@pytest.mark.real_data
def test_read_celeba__real_subset__sizes_and_people(real_data: Path) -> None:
    data = read_celeba(real_data / "celeba")
    assert [int((data.partitions == number).sum()) for number in range(3)] == [4444, 569, 1238]
    assert len(data.table.attributes) == 40
    assert data.table.identities is not None
    assert len(np.unique(data.table.identities)) == 299
    test = data.split("test").labels
    majority = np.maximum(test.mean(axis=0), 1 - test.mean(axis=0)).mean()
    assert 0.79 < majority < 0.83
