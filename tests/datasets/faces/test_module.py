"""The data module of faces."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.module import FaceDataModule, FaceDataset
from mobilevision.datasets.faces.sources import FolderFaces
from mobilevision.datasets.faces.views import FaceViews
from mobilevision.datasets.sampling import SampleKey


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for person in range(6):
        (tmp_path / f"p{person}").mkdir()
        for number in range(3):
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f"p{person}" / f"{number}.png"), pixels)
    return tmp_path


def module(root: Path, **options: Any) -> FaceDataModule:
    held_out = FolderFaces(root, make_pairs=2)
    defaults: dict[str, Any] = {"size_hw": (24, 24), "batch_size": 4, "num_workers": 0}
    return FaceDataModule(FolderFaces(root), held_out, **(defaults | options))


def test_train__each_epoch_has_each_file_once_and_k_epochs_each_view(root: Path) -> None:
    dataset = FaceDataset(FaceViews(FolderFaces(root).read(), 24), num_views=5)
    shown = np.array([[dataset[SampleKey(i, epoch)][2] for i in range(6)] for epoch in range(10)])
    for half in (shown[:5], shown[5:]):
        assert all(sorted(column) == list(range(5)) for column in half.T.tolist())
    assert len({tuple(column) for column in shown.T.tolist()}) > 1, "not all files at once"


def test_train__new_views_for_ever(root: Path) -> None:
    dataset = FaceDataset(FaceViews(FolderFaces(root).read(), 24), num_views=None)
    assert [dataset[SampleKey(3, epoch)][2] for epoch in range(4)] == [1, 2, 3, 4]


def test_train__noise_comes_on_top_and_not_in_its_place(root: Path) -> None:
    views = FaceViews(FolderFaces(root).read(), 24)
    key = SampleKey(2, 1)
    plain, noisy = (FaceDataset(views, 3, noise)[key] for noise in (0.0, 0.2))
    assert plain[2:] == noisy[2:]
    assert np.array_equal(plain[0], views.render(2, plain[2]))
    assert (plain[0] != noisy[0]).any()
    assert np.array_equal(noisy[0], FaceDataset(views, 3, 0.2)[key][0])


def test_batches__hold_what_they_say(root: Path) -> None:
    data = module(root, views=3, noise=0.1)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 3, 24, 24)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    people = [int(Path(path).parent.name[1:]) for path in batch.paths]
    drawn = zip(batch.ids.tolist(), batch.views.tolist(), people, strict=True)
    views = data.datasets["train"].views
    owners = [-1 if views.is_mixed(row, view) else person for row, view, person in drawn]
    assert batch.identities.tolist() == owners
    assert [data.datasets["train"].paths[row] for row in batch.ids.tolist()] == list(batch.paths)
    plain = next(iter(data.val_dataloader()))
    assert plain.views.tolist() == [0] * 4
    assert plain.ids.tolist() == [0, 1, 2, 3]
    assert "18 faces of 6 people, 3 views of each" in data.datasets["train"].summary()
    assert "12 pairs" in data.datasets["val"].summary()


def test_train__batches_by_people(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "p5" / "2.png").unlink()
    data = module(root, batch_size=6, faces_per_person=3, views=3)
    with caplog.at_level("INFO"):
        batches = list(data.train_dataloader())
    assert len(batches) == 2  # five people with three faces
    for batch in batches:
        people = [Path(path).parent.name for path in batch.paths]
        assert sorted(people.count(name) for name in set(people)) == [3, 3]
        assert "p5" not in people
    told = "2 people with 3 faces each; 1 people have fewer and are left out, 2 faces"
    assert told in caplog.text


def test_train__face_of_two_people_is_nobodys(root: Path) -> None:
    views = FaceViews(FolderFaces(root).read(), 24)
    dataset = FaceDataset(views, num_views=None)
    samples = [dataset[SampleKey(4, epoch)] for epoch in range(30)]
    owners = [-1 if views.is_mixed(4, view) else 1 for _, _, view, _, _ in samples]
    assert [sample[1] for sample in samples] == owners
    assert set(owners) == {-1, 1}


def test_setup__held_out_faces_need_pairs(root: Path) -> None:
    data = FaceDataModule(FolderFaces(root), FolderFaces(root), size_hw=(24, 24))
    with pytest.raises(DataError, match="the val faces have no pairs"):
        data.setup("fit")


@pytest.mark.parametrize(
    "options", [{"size_hw": (24, 32)}, {"views": 0}, {"noise": -0.1}, {"view_seed": -1},
                {"faces_per_person": 1}, {"faces_per_person": 3}, {"faces_per_person": 4}]
)  # fmt: skip
def test_options__out_of_range(root: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="must be"):
        module(root, **options)


def test_broken_image__stops_or_is_replaced(root: Path) -> None:
    (root / "p0" / "1.png").write_bytes(b"not an image")
    views = FaceViews(FolderFaces(root).read(), 24)
    with pytest.raises(DataError, match=r"1\.png"):
        FaceDataset(views)[1]
    dataset = FaceDataset(views, on_error="skip")
    assert dataset[1][3] == 2
    assert dataset.unreadable == [str(root / "p0" / "1.png")]
