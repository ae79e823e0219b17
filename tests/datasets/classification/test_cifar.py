import tarfile
from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.classification import cifar
from mobilevision.datasets.classification.cifar import (
    FOLDER,
    NAMES_FILE,
    TEST_FILES,
    TRAIN_FILES,
    CifarModule,
    download_cifar10,
)
from mobilevision.datasets.errors import DataError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def record(label: int, red: int, green: int, blue: int) -> bytes:
    """One record; the first row of the red plane counts from 0 to 31."""
    planes = np.empty((3, 32, 32), np.uint8)
    planes[0], planes[1], planes[2] = red, green, blue
    planes[0, 0] = np.arange(32)
    return bytes([label]) + planes.tobytes()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for number, name in enumerate((*TRAIN_FILES, *TEST_FILES)):
        (folder / name).write_bytes(record(number, 10, 20, 30) + record(9, 40, 50, 60))
    (folder / NAMES_FILE).write_text("\n".join(NAMES) + "\n\n")
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_records__become_images_and_labels(data: Path, inside: bool) -> None:
    module = CifarModule(data / FOLDER if inside else data, batch_size=3, num_workers=0)
    assert list(module.categories.values()) == NAMES
    table = module.read_table("train")
    assert table.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert table.paths[3] == "data_batch_2.bin#1"
    (batch,) = module.val_dataloader()
    assert batch.labels.tolist() == [5, 9]
    assert batch.images[0, 0, 0].tolist() == list(range(32)), "the first row, red"
    assert batch.images[0, :, 5, 5].tolist() == [10, 20, 30]
    assert batch.paths == ("test_batch.bin#0", "test_batch.bin#1")
    training = next(iter(module.train_dataloader()))
    assert training.images.shape == (3, 3, 32, 32)


def test_image__reduced_is_averaged(data: Path) -> None:
    image = CifarModule(data).read_table("val").image(1)
    assert image.size_hw == (32, 32)
    assert image.read(8).shape == (4, 4, 3)
    assert image.read(8)[3, 3].tolist() == [40, 50, 60]


def test_faults__are_named(data: Path, tmp_path: Path) -> None:
    path = data / FOLDER / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch.bin: 6,145 bytes are no whole number"):
        CifarModule(data).read_table("val")
    path.write_bytes(record(10, 0, 0, 0))
    with pytest.raises(DataError, match=r"test_batch.bin#0: its class 10 is not in 0 ... 9"):
        CifarModule(data).read_dataset("val")
    path.unlink()
    with pytest.raises(DataError, match=r"No such file"):
        CifarModule(data).read_table("val")
    with pytest.raises(DataError, match=r"mobilevision data download cifar10"):
        CifarModule(tmp_path / "absent")


def test_download__of_an_archive_with_the_right_sum_unpacks_what_is_needed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new"

    def fetch(url: str, target: Path, checksum, **_: object) -> bool:
        assert (url, checksum.digest) == (cifar.URL, cifar.MD5)
        target.parent.mkdir(parents=True)
        with tarfile.open(target, "w:gz") as archive:
            archive.add(data / FOLDER, FOLDER)
        return True

    monkeypatch.setattr(cifar, "download", fetch)
    assert download_cifar10(root, progress=False)
    assert [path.name for path in root.iterdir()] == [FOLDER], "the archive is gone"
    assert CifarModule(root).read_table("train").labels.size == 10
    assert not download_cifar10(root, progress=False)


def test_download__of_an_archive_that_lacks_a_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"has no file cifar-10-batches-bin/data_batch_1.bin"):
        cifar._unpack(tmp_path / "x.tar", tmp_path, TRAIN_FILES)
