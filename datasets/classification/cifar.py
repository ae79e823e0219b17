"""CIFAR-10 (Krizhevsky 2009) in its binary version; the one for Python is a pickle.

    root/cifar-10-batches-bin/data_batch_1.bin ... data_batch_5.bin, test_batch.bin
    root/cifar-10-batches-bin/batches.meta.txt

A record is a byte of class and 3 x 32 x 32 bytes of pixels: all red ones row by row, then green,
then blue.
"""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..download import Checksum, download
from ..errors import DataError
from ..files import read_text, write_atomically
from ..images import ImageFile
from ..transforms.classification import PadCrop, WholeImage
from .module import ClassificationDataModule

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SIZE = 170_052_171
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""From https://www.cs.toronto.edu/~kriz/cifar.html."""
FOLDER = "cifar-10-batches-bin"
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE**2
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
NAMES_FILE = "batches.meta.txt"


class ArrayImage(ImageFile):
    """A decoded image (H, W, 3) uint8 RGB with the interface of a file."""

    def __init__(self, pixels: np.ndarray, name: str) -> None:
        super().__init__(name)
        self._pixels = pixels

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._pixels.shape[0], self._pixels.shape[1]

    def read(self, reduce: int = 1) -> np.ndarray:
        """Copy the pixels, at 1/``reduce`` of their size as `ImageFile.read` does."""
        if reduce == 1:
            return self._pixels.copy()
        return np.array(Image.fromarray(self._pixels).reduce(reduce))


class CifarTable(NamedTuple):
    """An `ImageTable` of the records of binary files."""

    name: str
    paths: Sequence[str]
    """ "data_batch_1.bin#17" for record 17 of that file, counted from 0."""
    labels: np.ndarray
    records: np.ndarray
    """(N, 3073) uint8."""

    def image(self, index: int) -> ImageFile:
        """See `ImageTable`."""
        planes = self.records[index, 1:].reshape(3, SIDE, SIDE)
        return ArrayImage(np.ascontiguousarray(planes.transpose(1, 2, 0)), self.paths[index])


class CifarModule(ClassificationDataModule):
    """CIFAR-10: 50,000 images of 32x32 px to train on, 10,000 to test on.

    There is no official validation split: validation and test both use the official test file.
    ``mobilevision data download cifar10`` fetches it.

    Args:
        root: folder that holds ``cifar-10-batches-bin``, or that folder itself.
        size_hw: height and width of the network's input in pixels.
        **options: see `ClassificationDataModule`; the default of ``train_transform`` is
            ``PadCrop(size_hw)``, that of ``val_transform`` is ``WholeImage(size_hw)``.
    """

    def __init__(
        self, root: str | Path, size_hw: tuple[int, int] = (SIDE, SIDE), **options: Any
    ) -> None:
        folder = Path(root) / FOLDER if (Path(root) / FOLDER).is_dir() else Path(root)
        if not (folder / NAMES_FILE).is_file():
            raise DataError(
                f"{folder}: has no {NAMES_FILE}. `mobilevision data download cifar10 --root "
                f"{root}` fetches CIFAR-10; configs/classification_quickstart.yaml needs no "
                "download."
            )
        options["train_transform"] = options.get("train_transform") or PadCrop(size_hw)
        options["val_transform"] = options.get("val_transform") or WholeImage(size_hw)
        splits = {"train": TRAIN_FILES, "val": TEST_FILES}
        super().__init__(folder, splits, size_hw=size_hw, **options)

    def read_categories(self) -> dict[int, str]:
        """Read the ten names."""
        names = read_text(self.root / NAMES_FILE, "list of names", "Download it again.")
        return dict(enumerate(names.split()))

    def read_table(self, split: str) -> CifarTable:
        """See `ClassificationDataModule`."""
        files = [self.root / name for name in self.splits[split]]
        parts = [_read_records(path) for path in files]
        rows = zip(files, map(len, parts), strict=True)
        paths = [f"{path.name}#{row}" for path, count in rows for row in range(count)]
        records = np.concatenate(parts)
        name = f"CIFAR-10 {'train' if split == 'train' else 'test'}"
        return CifarTable(name, paths, records[:, 0].astype(np.int64), records)


def _read_records(path: Path) -> np.ndarray:
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); download it again") from error
    if not data.size or data.size % RECORD_BYTES:
        raise DataError(
            f"{path}: {data.size:,} bytes are no whole number of {RECORD_BYTES}-byte records, so "
            "the file is cut short or another one; download it again"
        )
    return data.reshape(-1, RECORD_BYTES)


def download_cifar10(root: Path, url: str = URL, progress: bool = True) -> bool:
    """Fetch CIFAR-10, verify and unpack it into ``root``; return False if it was there.

    ``url`` may be a mirror of the official archive.

    Raises:
        DataError: see ``download``; also if the archive lacks a file.
    """
    wanted = (*TRAIN_FILES, *TEST_FILES, NAMES_FILE)
    if all((root / FOLDER / name).is_file() for name in wanted):
        return False
    archive = root / url.rpartition("/")[2]
    download(url, archive, Checksum("md5", MD5), size=SIZE, progress=progress)
    _unpack(archive, root / FOLDER, wanted)
    archive.unlink()
    return True


def _unpack(archive: Path, folder: Path, names: Sequence[str]) -> None:
    """Extract files of an archive by their known names, and no other entry."""
    with tarfile.open(archive) as content:
        for name in names:
            try:
                source = content.extractfile(f"{FOLDER}/{name}")
            except KeyError:
                source = None
            if source is None:
                raise DataError(f"{archive}: has no file {FOLDER}/{name}")
            write_atomically(folder / name, source.read())
