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
    assert batch.identities.tolist() == people
    assert [data.datasets["train"].paths[row] for row in batch.ids.tolist()] == list(batch.paths)
    plain = next(iter(data.val_dataloader()))
    assert plain.views.tolist() == [0] * 4
    assert plain.ids.tolist() == [0, 1, 2, 3]
    assert "18 faces of 6 people, 3 views of each" in data.datasets["train"].summary()
    assert "12 pairs" in data.datasets["val"].summary()


def test_setup__held_out_faces_need_pairs(root: Path) -> None:
    data = FaceDataModule(FolderFaces(root), FolderFaces(root), size_hw=(24, 24))
    with pytest.raises(DataError, match="the val faces have no pairs"):
        data.setup("fit")


@pytest.mark.parametrize(
    "options", [{"size_hw": (24, 32)}, {"views": 0}, {"noise": -0.1}, {"view_seed": -1}]
)
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
