"""Lists of pairs, read and drawn."""

from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.pairs import make_pairs, read_pairs

FILES = ["Ada/Ada_0001.jpg", "Ada/Ada_0012.png", "Bo/Bo_0001.jpg", "Cy/Cy_0003.jpg"]
LIST = "2\t1\nAda\t1\t12\nAda\t1\tBo\t1\nAda\t12\t1\nCy\t3\tAda\t12\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return path


def test_read_pairs__two_folds_of_one_pair_each(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, LIST), FILES)
    assert pairs.first.tolist() == [0, 0, 1, 3]
    assert pairs.second.tolist() == [1, 2, 0, 1]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]


def test_read_pairs__a_heading_of_one_number_is_one_fold(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "1\nAda 1 12\nAda 1 Bo 1\n"), FILES)
    assert pairs.folds.tolist() == [0, 0]


def test_read_pairs__tabs_let_names_hold_spaces(tmp_path: Path) -> None:
    ana = "Ana Palacio/Ana Palacio"
    files = [f"{ana}_0001.jpg", f"{ana}_0002.jpg", "Bo/Bo_0001.png"]
    text = "1\r\nAna Palacio\t1\t2\r\nAna Palacio\t2\tBo\t1\r\n"
    pairs = read_pairs(write(tmp_path, text), files)
    assert pairs.first.tolist() == [0, 1]
    assert pairs.second.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\nAna Palacio 1 2\nAda 1 Bo 1\n", "line 2: .* by tabs where names hold spaces"),
        ("1\n\t1\t2\nAda 1 Bo 1\n", "line 2: .* is not 'name number number'"),
        ("1\nAda\t\t1\t2\nAda 1 Bo 1\n", "line 2: .* is not 'name number number'"),
        ("9" * 5000 + "\n", "line 1 says how many"),
        ("1\nAda 1 " + "9" * 5000 + "\nAda 1 Bo 1\n", "line 2: .* is not 'name number number'"),
        ("", "line 1 says how many"),
        ("ten 1\n", "line 1 says how many"),
        ("2\t1\nAda\t1\t12\n", "announces 2 folds of 2 x 1 pairs, and 1 lines follow"),
        ("1\nAda 1 12\nAda 1 12\n", r"line 3: 'Ada 1 12' is not 'name number name number'"),
        ("1\nAda one 12\nAda 1 Bo 1\n", r"line 2: .*'name number number'"),
        ("1\nAda 1 7\nAda 1 Bo 9\n", r"2 faces that it names are not there: Ada/Ada_0007, Bo/Bo_0"),
    ],
)
def test_read_pairs__says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(write(tmp_path, text), FILES)


def test_read_pairs__no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable list"):
        read_pairs(tmp_path / "absent.txt", FILES)


@pytest.mark.real_data
def test_read_pairs__lfw(real_data: Path) -> None:
    root = real_data / "lfw"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    pairs = read_pairs(root / "pairs.txt", files)
    people = np.array([file.split("/")[0] for file in files])
    assert len(pairs.same) == 6000
    assert np.array_equal(people[pairs.first] == people[pairs.second], pairs.same)
    assert np.bincount(pairs.folds).tolist() == [600] * 10


def test_make_pairs__folds_of_different_people_and_both_kinds_alike() -> None:
    identities = np.repeat(np.arange(100, 124), np.arange(3, 27))
    identities[:2] = -1
    pairs = make_pairs(identities, 5, seed=3)
    assert np.array_equal(identities[pairs.first] == identities[pairs.second], pairs.same)
    assert pairs.folds.max() == 9
    seen: list[set[int]] = []
    for fold in range(10):
        own = pairs.folds == fold
        assert (own & pairs.same).sum() == (own & ~pairs.same).sum() == 5
        seen.append(set(identities[pairs.first[own]]) | set(identities[pairs.second[own]]))
    assert len(set().union(*seen)) == sum(map(len, seen)), "a person is in one fold only"
    assert -1 not in set().union(*seen)
    rows = np.stack([pairs.first, pairs.second])
    assert (rows[0] < rows[1]).all()
    assert len(np.unique(rows, axis=1).T) == len(pairs.same), "no pair twice"
    again = make_pairs(identities, 5, seed=3)
    assert all(np.array_equal(*columns) for columns in zip(pairs, again, strict=True))
    assert not np.array_equal(make_pairs(identities, 5, seed=4).first, pairs.first)


def test_make_pairs__few_people_with_many_images__one_in_every_fold() -> None:
    identities = np.concatenate([np.repeat(np.arange(50, 60), 4), np.arange(10)])
    pairs = make_pairs(identities, 6, seed=0)
    # Four images of one person and one of another: six pairs of one and four of two people.
    assert np.bincount(pairs.folds).tolist() == [8] * 10


@pytest.mark.parametrize("identities", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4], [-1, -1]])
def test_make_pairs__too_few_people_or_images(identities: list[int]) -> None:
    with pytest.raises(DataError, match="people"):
        make_pairs(np.array(identities), 3)
