"""Photos and where they were taken: samples by number, batches, and the data modules."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data_errors import OnError
from ..errors import DataError
from ..file_names import FileNames
from ..image_dataset import ImageDataset
from ..image_module import ImageDataModule, require_size, require_split
from ..images import ImageFile
from ..sampling import SampleKey
from ..transforms.classification import CentreCrop, ClassificationTransform, RandomCrop
from .coordinates import CellTable, PositionTable, read_cell_table, read_positions


class PhotoBatch(NamedTuple):
    """A batch of photos with their positions."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB; as decoded, so in memory order channels_last."""
    latlng_deg: Tensor
    """(B, 2) float32, latitude and longitude in degrees; exact to 2 m."""
    ids: Tensor
    """(B,) int64, the position in the data set, one for each photo."""
    paths: tuple[str, ...]
    """The files the photos come from."""


class PhotoSource(Protocol):
    """N photos with their positions."""

    @property
    def name(self) -> str:
        """What results call the data."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """N names of files, each once."""
        ...

    @property
    def latlng_deg(self) -> np.ndarray:
        """(N, 2) float64, degrees."""
        ...

    def picture(self, index: int) -> Any:
        """The photo at a position, with ``read`` and ``size_hw``; nothing is read yet."""
        ...


class PhotoFiles(NamedTuple):
    """Photos that are files."""

    name: str
    paths: Sequence[str]
    latlng_deg: np.ndarray

    def picture(self, index: int) -> ImageFile:
        """See `PhotoSource`."""
        return ImageFile(self.paths[index])


class PhotoSample(NamedTuple):
    """One photo, ready for the network."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    latlng_deg: np.ndarray
    """(2,) float64."""
    position: int
    """In the data set; of the photo that was handed out."""
    path: str


class PhotoDataset(ImageDataset[PhotoSample]):
    """Reads, augments and hands out photos with their position.

    The augmentation of a photo depends on seed, epoch and position alone.

    Args:
        source: what to read.
        transform: makes the network's input.
        seed: at least 0.
        on_error: see `ImageDataset`; another photo comes with its own position.
    """

    def __init__(
        self,
        source: PhotoSource,
        transform: ClassificationTransform,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(source.name, source.paths, seed, on_error)
        self.source = source
        self.transform = transform

    def __getitem__(self, key: SampleKey | int) -> PhotoSample:
        """Read the photo of a key; a plain position stands for epoch 0.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        rng_key = self.rng_key(key)
        return self.first_readable(
            rng_key[-1], lambda index: self._sample(index, np.random.default_rng(rng_key))
        )

    def _sample(self, index: int, rng: np.random.Generator) -> PhotoSample:
        pixels = self.transform(self.source.picture(index), rng)
        return PhotoSample(pixels, self.source.latlng_deg[index], index, str(self.paths[index]))

    def summary(self) -> str:
        """One line for the log: never a position."""
        return f"{self.name}: {len(self):,} photos"


def collate_photos(samples: list[PhotoSample]) -> PhotoBatch:
    """Stack B samples of one size to a batch."""
    images, latlng_deg, positions, paths = zip(*samples, strict=True)
    return PhotoBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        latlng_deg=torch.from_numpy(np.stack(latlng_deg)).float(),
        ids=torch.tensor(positions, dtype=torch.int64),
        paths=paths,
    )


class PhotoDataModule(ImageDataModule):
    """Photos with positions, and the cells to tell them apart by.

    A subclass gives ``read_source``, and ``read_cells`` where cells are not read from files.

    Args:
        root: folder that tables and pictures are relative to.
        splits: "train", "val", "test" -> what the subclass needs to find it.
        cells: tables of one or several partitions (`mobilevision cells build`), coarse before
            fine, relative to the root; the last one is what is predicted.
        size_hw: height and width of the network's input in pixels.
        eval_size_hw: those of pictures in evaluation, for crops that the task takes of them; null
            is ``size_hw``.
        train_transform: null is ``RandomCrop(size_hw)``.
        val_transform: null is ``CentreCrop(eval_size_hw)``.
        **options: see `ImageDataModule`.

    Raises:
        DataError: an option is out of its range.
    """

    collate = staticmethod(collate_photos)

    def __init__(
        self,
        root: str | Path,
        splits: dict[str, Any],
        cells: Sequence[str | Path] = (),
        *,
        size_hw: tuple[int, int] = (224, 224),
        eval_size_hw: tuple[int, int] | None = None,
        train_transform: ClassificationTransform | None = None,
        val_transform: ClassificationTransform | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.splits = splits
        self.cells = cells
        self.size_hw = (size_hw[0], size_hw[1])
        self.eval_size_hw = (
            self.size_hw if eval_size_hw is None else (eval_size_hw[0], eval_size_hw[1])
        )
        self.train_transform = train_transform or RandomCrop(self.size_hw)
        self.val_transform = val_transform or CentreCrop(self.eval_size_hw)
        self._cell_tables: tuple[CellTable, ...] | None = None
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.eval_size_hw)

    @property
    def cell_tables(self) -> tuple[CellTable, ...]:
        """The partitions, coarse before fine; known from construction."""
        if self._cell_tables is None:
            self._cell_tables = tuple(self.read_cells())
            if not self._cell_tables:
                raise DataError(
                    f"{self.root}: which cells? Make them with `mobilevision cells build` and name "
                    "the file with the option data.cells."
                )
        return self._cell_tables

    @property
    def num_classes(self) -> list[int]:
        """Number of cells of each partition."""
        return [len(table.tokens) for table in self.cell_tables]

    @property
    def categories(self) -> dict[int, str]:
        """Class index -> S2 token of the last partition."""
        return dict(enumerate(self.cell_tables[-1].tokens))

    def read_cells(self) -> Sequence[CellTable]:
        """Read the partitions.

        Raises:
            DataError: a file is absent or faulty.
        """
        return [read_cell_table(self.root / path) for path in self.cells]

    def read_source(self, split: str) -> PhotoSource:
        """Read which photos "train", "val" or "test" has; none is opened.

        Raises:
            DataError: a file is absent or faulty.
        """
        raise NotImplementedError

    def read_dataset(self, split: str) -> PhotoDataset:
        """Read a split with its transform.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        require_split(self.root, self.splits, split)
        transform = self.train_transform if split == "train" else self.val_transform
        return PhotoDataset(self.read_source(split), transform, self.seed, self.on_error)


class PhotoTableModule(PhotoDataModule):
    """Photos that tables list (see `positions`): one for each split, with a folder of pictures.

    Args:
        root: folder that tables and pictures are relative to.
        train: the training table, csv or Parquet.
        val: the validation table.
        test: the test table, such as that of Im2GPS3k; null takes the validation split.
        images: folder of the pictures of training and validation, relative to the root.
        test_images: folder of those of the test table; null is ``images``.
        **options: see `PhotoDataModule`.

    Raises:
        DataError: an option is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train.csv",
        val: str = "val.csv",
        test: str | None = None,
        images: str = "images",
        test_images: str | None = None,
        **options: Any,
    ) -> None:
        splits = {"train": train, "val": val} | ({"test": test} if test else {})
        super().__init__(root, splits, **options)
        self.images = images
        self.test_images = images if test_images is None else test_images

    def read_source(self, split: str) -> PhotoFiles:
        """See `PhotoDataModule`."""
        path = self.root / self.splits[split]
        folder = self.root / (self.test_images if split == "test" else self.images)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of pictures; see the option data.images")
        table: PositionTable = read_positions(path, f"{self.root.name} {path.stem}")
        paths = FileNames(folder).locate_all(table.files, path)
        return PhotoFiles(table.name, paths, table.latlng_deg)
