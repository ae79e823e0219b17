from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mobilevision.datasets.classification.stanford_dogs import StanfordDogsModule
from mobilevision.datasets.errors import DataError

FOLDERS = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02099429-curly-coated_retriever"]


def write_list(path: Path, rows: list[tuple[int, int]]) -> None:
    """As published: cells of strings in a column, numbers from 1 as a column."""
    files = np.empty((len(rows), 1), dtype=object)
    for row, (number, image) in enumerate(rows):
        files[row, 0] = f"{FOLDERS[number - 1]}/{FOLDERS[number - 1][:9]}_{image}.jpg"
    path.parent.mkdir(exist_ok=True)
    labels = np.array([[number] for number, _ in rows], dtype=np.uint8)
    savemat(path, {"file_list": files, "annotation_list": files, "labels": labels})


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    for folder in FOLDERS:
        for image in range(3):
            path = tmp_path / "Images" / folder / f"{folder[:9]}_{image}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20), (image, 5, 5)).save(path)
    write_list(tmp_path / "lists/train_list.mat", [(1, 0), (2, 0), (3, 0), (3, 1)])
    write_list(tmp_path / "lists/test_list.mat", [(2, 2), (1, 1)])
    return tmp_path


def test_lists__are_read_from_matlab_files(dogs: Path) -> None:
    module = StanfordDogsModule(dogs, size_hw=(16, 16), batch_size=2, num_workers=0)
    assert list(module.categories.values()) == [
        "Chihuahua", "Japanese spaniel", "curly-coated retriever",
    ]  # fmt: skip
    assert module.read_table("train").labels.tolist() == [0, 1, 2, 2]
    assert module.read_table("train").name == "Stanford Dogs train"
    (batch,) = module.test_dataloader()
    assert batch.labels.tolist() == [1, 0]
    assert batch.paths[0].endswith("Images/n02085782-Japanese_spaniel/n02085782_2.jpg")


def test_lists__as_text(dogs: Path) -> None:
    (dogs / "lists/test_list.mat").unlink()
    (dogs / "test.txt").write_text(f"{FOLDERS[2]}/n02099429_0.jpg\n")
    assert StanfordDogsModule(dogs).read_table("val").labels.tolist() == [2]


def test_faults__are_named(dogs: Path) -> None:
    (dogs / "Images" / "n02085621-Extra").mkdir()
    with pytest.raises(DataError, match=r"is listed as class 2, but its folder is the number 3"):
        StanfordDogsModule(dogs).read_table("train")
    (dogs / "Images" / "n02085621-Extra").rmdir()
    (dogs / "lists/test_list.mat").write_bytes(b"junk")
    with pytest.raises(DataError, match="not a MATLAB file"):
        StanfordDogsModule(dogs).read_table("val")
    (dogs / "lists/train_list.mat").unlink()
    with pytest.raises(DataError, match=r"has none of lists/train_list.mat"):
        StanfordDogsModule(dogs)
    with pytest.raises(DataError, match="has no folder Images"):
        StanfordDogsModule(dogs / "lists")
