"""File names of every kind of table: with backslashes, of another machine, leading elsewhere."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevision.datasets.classification.image_folder import read_csv_table
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.datasets.faces.labels import read_label_table
from mobilevision.datasets.geolocation.coordinates import PositionTable
from mobilevision.datasets.geolocation.module import PhotoTableModule
from mobilevision.datasets.geolocation.shards import write_shards


def csv_classes(root: Path, name: str) -> Sequence[str]:
    table = root / "table.csv"
    table.write_text(f"file,label\n{name},cat\n")
    return read_csv_table(table, root / "images", ["cat"]).paths


def label_table(root: Path, name: str) -> Sequence[str]:
    table = root / "table.csv"
    table.write_text(f"file,Smiling\n{name},1\n")
    return read_label_table(table, root / "images").paths


def celeba(root: Path, name: str) -> Sequence[str]:
    (root / "images").rename(root / "img_align_celeba")
    (root / "list_attr_celeba.txt").write_text(f"1\nSmiling\n{name} 1\n")
    (root / "list_eval_partition.txt").write_text(f"{name} 0\n")
    return read_celeba(root).table.paths


def photos(root: Path, name: str) -> Sequence[str]:
    (root / "train.csv").write_text(f"file,latitude,longitude\n{name},1.0,2.0\n")
    module = PhotoTableModule(root, images="images", train="train.csv", val="train.csv", cells=[])
    return module.read_source("train").paths


def shards(root: Path, name: str) -> Sequence[str]:
    table = PositionTable("a", np.array([name]), np.zeros((1, 2)))
    index, _ = write_shards(table, root / "images", root / "out", 5, progress=False)
    return [str(root / "images" / "a" / "b.png")] * len(index.shards)


READERS: list[Callable[[Path, str], Sequence[str]]] = [
    csv_classes,
    label_table,
    celeba,
    photos,
    shards,
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a" / "b.png")
    return tmp_path


@pytest.mark.parametrize("read", READERS)
def test_read__backslashes__are_separators(read: Callable, root: Path) -> None:
    (path,) = read(root, "a\\b.png")
    assert Path(path).parts[-2:] == ("a", "b.png")


@pytest.mark.parametrize("read", READERS)
def test_read__absolute_path_of_another_machine__found_below_and_said_once(
    read: Callable, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (path,) = read(root, "/home/somebody/data/a/b.png")
    assert Path(path).parts[-2:] == ("a", "b.png")
    assert [record.message for record in caplog.records if "of another machine" in record.message]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "..\\secret.png"])
def test_read__name_that_leads_out__refused(read: Callable, name: str, root: Path) -> None:
    Image.new("RGB", (4, 4)).save(root / "secret.png")
    with pytest.raises(DataError, match=r"leads out of the dataset"):
        read(root, name)
