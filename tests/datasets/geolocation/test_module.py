from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.module import PhotoTableModule, collate_photos

CELLS = "class_label,hex_id,latitude_mean,longitude_mean\n0,89c25,40.7,-74.0\n1,47e67,48.8,2.3\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(5):
        Image.new("RGB", (40, 30), (number * 20, 0, 0)).save(tmp_path / "images" / f"{number}.jpg")
        rows.append(f"{number}.jpg,{number * 10},{-number}")
    text = "IMG_ID,LAT,LON\n" + "\n".join(rows)
    (tmp_path / "train.csv").write_text(text)
    (tmp_path / "val.csv").write_text(text)
    (tmp_path / "cells.csv").write_text(CELLS)
    return tmp_path


def module(root: Path, **options) -> PhotoTableModule:
    options = {
        "cells": ["cells.csv"],
        "size_hw": (16, 16),
        "num_workers": 0,
        "batch_size": 2,
    } | options
    return PhotoTableModule(root, **options)


def test_val_batches__photos_with_their_positions_in_order(root: Path) -> None:
    data = module(root)
    batches = list(data.val_dataloader())
    assert [len(batch.paths) for batch in batches] == [2, 2, 1]
    assert batches[0].images.shape == (2, 3, 16, 16)
    assert np.concatenate([batch.latlng_deg.numpy() for batch in batches]).tolist() == [
        [number * 10, -number] for number in range(5)
    ]
    assert [Path(path).name for batch in batches for path in batch.paths] == [
        f"{number}.jpg" for number in range(5)
    ]


def test_train_batches__every_photo_once_with_its_own_position(root: Path) -> None:
    data = module(root, batch_size=1)
    seen = {
        Path(batch.paths[0]).stem: batch.latlng_deg[0].tolist() for batch in data.train_dataloader()
    }
    assert seen == {str(number): [number * 10, -number] for number in range(5)}


def test_categories__tokens_of_the_last_partition(root: Path) -> None:
    (root / "coarse.csv").write_text(CELLS.splitlines()[0] + "\n0,89c4,40,-70\n")
    data = module(root, cells=["coarse.csv", "cells.csv"])
    assert data.num_classes == [1, 2]
    assert data.categories == {0: "89c25", 1: "47e67"}


def test_eval_size__larger_images_in_evaluation_only(root: Path) -> None:
    data = module(root, eval_size_hw=(24, 24))
    assert next(iter(data.val_dataloader())).images.shape[-2:] == (24, 24)
    assert next(iter(data.train_dataloader())).images.shape[-2:] == (16, 16)


def test_missing_photo__named_or_replaced_and_reported(root: Path) -> None:
    (root / "images" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"2\.jpg: no such file"):
        list(module(root).val_dataloader())
    data = module(root, on_error="skip")
    positions = np.concatenate([batch.latlng_deg.numpy() for batch in data.val_dataloader()])
    assert positions[2].tolist() == [30, -3], "another photo comes with its own position"
    assert data.datasets["val"].unreadable == [str(root / "images" / "2.jpg")]


def test_photo_of_too_many_pixels__named_or_replaced_and_reported(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (200, 200)).save(root / "images" / "2.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(DataError, match=r"2\.jpg.*MOBILEVISION_MAX_PIXELS"):
        list(module(root).train_dataloader())
    data = module(root, on_error="skip")
    assert sum(len(batch.paths) for batch in data.train_dataloader()) >= 4
    assert data.datasets["train"].unreadable == [str(root / "images" / "2.jpg")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": []}, "there are no cells"),
        ({"cells": ["gone.csv"]}, "no such table"),
        ({"images": "gone"}, "no such folder of images"),
        ({"val": "gone.csv"}, "no such table"),
    ],
)
def test_setup__something_absent__says_what(root: Path, options: dict, message: str) -> None:
    def use(data: PhotoTableModule) -> None:
        assert data.num_classes
        data.setup("fit")

    with pytest.raises(DataError, match=message):
        use(module(root, **options))


def test_summary__names_no_position(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    assert data.datasets["train"].summary().endswith("train: 5 photos")


def test_collate__positions__keep_two_metres(root: Path) -> None:
    dataset = module(root).read_dataset("val")
    sample = dataset[0]._replace(latlng_deg=np.array([89.9876543, -179.9876543]))
    (found,) = collate_photos([sample]).latlng_deg.double().numpy()
    assert np.abs(found - sample.latlng_deg).max() < 2 / 111_000
