import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.attributes import people_of, with_unlabeled
from mobilevision.datasets.faces.labels import LabelTable
from mobilevision.datasets.faces.module import CelebAPeopleModule


def module(root: Path, **options: Any) -> CelebAPeopleModule:
    defaults = {"size_hw": (40, 32), "batch_size": 4, "num_workers": 0, "pairs_per_fold": 2}
    return CelebAPeopleModule(root, **(defaults | options))


def test_people__are_numbered_without_gaps_beside_the_labels(drawn_people: Path) -> None:
    data = module(drawn_people)
    data.setup("validate")
    first, second = data.val_dataloader()
    assert first.labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert torch.cat([first.identities, second.identities]).tolist() == [0, 0, 1, 1, 2, 3]
    dataset = data.datasets["val"]
    assert dataset.faces.people == ("100", "101", "102", "103")
    assert dataset.faces.files[0] == "000013.jpg"
    assert dataset.faces.paths == tuple(dataset.paths)
    assert "4 people, 4 pairs" in dataset.summary()


def test_pairs__of_held_out_people_alone_and_right(drawn_people: Path) -> None:
    data = module(drawn_people)
    assert data.read_dataset("train").faces.pairs is None
    faces = data.read_dataset("test").faces
    assert faces.pairs is not None
    owners = faces.identities
    same = owners[faces.pairs.first] == owners[faces.pairs.second]
    assert np.array_equal(same, faces.pairs.same)
    assert faces.pairs.same.tolist().count(True) == 2  # two people have two images
    assert sorted(set(faces.pairs.folds.tolist())) == [0, 1]


def test_identities__absent__named(drawn_people: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn_people, tmp_path / "celeba"))
    (root / "identity_CelebA.txt").unlink()
    with pytest.raises(DataError, match=r"there is no identity_CelebA\.txt"):
        module(root).setup("validate")


def test_options__out_of_range(drawn_people: Path) -> None:
    for options in ({"pairs_per_fold": 0}, {"unlabelled": drawn_people}):
        with pytest.raises(DataError, match="pairs_per_fold="):
            module(drawn_people, **options)


def test_broken_image__held_out_is_never_stood_in_for(drawn_people: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn_people, tmp_path / "celeba"))
    for number in (1, 14):
        (root / "img_align_celeba" / f"{number:06d}.jpg").write_bytes(b"no")
    data = module(root, on_error="skip")
    sample = data.read_dataset("train")[0]
    assert Path(sample.path).name == "000002.jpg"
    assert sample.identity == 0
    with pytest.raises(DataError, match=r"000014\.jpg"):
        _ = data.read_dataset("val")[1]


def test_people_of__unknown_people(tmp_path: Path) -> None:
    table = LabelTable("t", ("a",), ["1.jpg", "2.jpg", "3.jpg"], np.zeros((3, 1), np.int8))
    people, identities = people_of(table)
    assert (people.tolist(), identities.tolist()) == ([], [-1, -1, -1])
    known = table._replace(identities=np.array([9, -1, 4]))
    people, identities = people_of(known)
    assert (people.tolist(), identities.tolist()) == ([4, 9], [1, -1, 0])
    (tmp_path / "more.jpg").write_bytes(b"")
    longer = with_unlabeled(known, tmp_path)
    assert longer.identities is not None
    assert longer.identities.tolist() == [9, -1, 4, -1]
    assert with_unlabeled(table, tmp_path).identities is None


@pytest.mark.real_data
def test_real_celeba__people_of_the_parts_are_disjoint(real_data: Path) -> None:
    data = module(real_data / "celeba", pairs_per_fold=300)
    sets = {split: data.read_dataset(split) for split in ("train", "val", "test")}
    assert [len(each.people) for each in sets.values()] == [217, 24, 58]
    everyone = [set(each.people.tolist()) for each in sets.values()]
    assert len(set.union(*everyone)) == 299
    assert sets["test"].faces.pairs is not None
    assert sets["test"].faces.pairs.same.sum() >= 2000
