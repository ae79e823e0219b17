"""What the data modules for classification share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..data_errors import OnError
from ..errors import DataError
from ..image_module import ImageDataModule, ImageDataset, require_size, require_split
from ..images import ImageFile
from ..sampling import SampleKey
from ..transforms.classification import CenterCrop, ClassificationTransform, RandomCrop
from ..types import ClassificationBatch

NO_LABEL = -1


class ImageTable(Protocol):
    """What a reader ends in: N images with their classes."""

    @property
    def name(self) -> str:
        """What results call the data."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """N names of files, each once."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, class index, -1 where it is not known."""
        ...

    def image(self, index: int) -> ImageFile:
        """The image at a position; nothing is read yet."""
        ...


class FileTable(NamedTuple):
    """Images that are files."""

    name: str
    paths: Sequence[str]
    labels: np.ndarray

    def image(self, index: int) -> ImageFile:
        """See `ImageTable`."""
        return ImageFile(self.paths[index])

    def take(self, name: str, rows: np.ndarray) -> "FileTable":
        """Some of them: positions (M,) int64."""
        paths = [self.paths[int(row)] for row in rows]
        return FileTable(name, paths, self.labels[rows])


class ClassificationSample(NamedTuple):
    """One image, ready for the network."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    label: int
    position: int
    """In the data set; of the image that was handed out."""
    path: str


class ClassificationDataset(ImageDataset[ClassificationSample]):
    """Reads, augments and hands out images with their class.

    The augmentation of an image depends on seed, epoch and position alone.

    Args:
        table: what to read.
        transform: makes the network's input.
        seed: at least 0.
        on_error: see `ImageDataset`; another image comes with its own label.
    """

    def __init__(
        self,
        table: ImageTable,
        transform: ClassificationTransform,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(table.name, table.paths, seed, on_error)
        self.table = table
        self.transform = transform

    def __getitem__(self, key: SampleKey | int) -> ClassificationSample:
        """Read the image of a key; a plain position stands for epoch 0.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        rng_key = self.rng_key(key)
        return self.first_readable(
            rng_key[-1], lambda index: self._sample(index, np.random.default_rng(rng_key))
        )

    def _sample(self, index: int, rng: np.random.Generator) -> ClassificationSample:
        pixels = self.transform(self.table.image(index), rng)
        return ClassificationSample(
            pixels, int(self.table.labels[index]), index, str(self.paths[index])
        )

    def summary(self) -> str:
        """One line for the log: images and classes."""
        known = self.table.labels[self.table.labels != NO_LABEL]
        return f"{self.name}: {len(self):,} images of {len(np.unique(known)):,} classes"


def collate_classification(samples: list[ClassificationSample]) -> ClassificationBatch:
    """Stack B samples of one size to a batch."""
    images, labels, positions, paths = zip(*samples, strict=True)
    return ClassificationBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        labels=torch.tensor(labels, dtype=torch.int64),
        ids=torch.tensor(positions, dtype=torch.int64),
        paths=paths,
    )


def check_labels(table: ImageTable, num_classes: int) -> None:
    """Refuse labels that there is no class for.

    Raises:
        DataError: a label is not in [-1, num_classes).
    """
    bad = (table.labels < NO_LABEL) | (table.labels >= num_classes)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{table.paths[row]}: its class {table.labels[row]} is not in 0 ... {num_classes - 1}"
        )


class ClassificationDataModule(ImageDataModule):
    """Images with one class each; a subclass gives ``read_table`` and ``read_categories``.

    Args:
        root: folder of the data set.
        splits: "train", "val", "test" -> what the subclass needs to find it.
        categories: key -> name of the classes, in class order; None asks ``read_categories``.
        size_hw: height and width of the network's input in pixels.
        train_transform: null is ``RandomCrop(size_hw)``.
        val_transform: null is ``CenterCrop(size_hw)``.
        **options: see `ImageDataModule`.

    Raises:
        DataError: an option is out of its range.
    """

    collate = staticmethod(collate_classification)

    def __init__(
        self,
        root: str | Path,
        splits: dict[str, Any],
        categories: dict[int, str] | None = None,
        *,
        size_hw: tuple[int, int] = (224, 224),
        train_transform: ClassificationTransform | None = None,
        val_transform: ClassificationTransform | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.splits = splits
        self._categories = categories
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or RandomCrop(self.size_hw)
        self.val_transform = val_transform or CenterCrop(self.size_hw)
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.size_hw)

    @property
    def categories(self) -> dict[int, str]:
        """Key -> name, known from construction; the position is the class index."""
        if self._categories is None:
            self._categories = self.read_categories()
        return self._categories

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.categories)

    def read_categories(self) -> dict[int, str]:
        """Ask the data what its classes are.

        Raises:
            DataError: that cannot be told.
        """
        raise NotImplementedError

    def read_table(self, split: str) -> ImageTable:
        """Read which images "train", "val" or "test" has; none is opened.

        Raises:
            DataError: a file is absent or faulty.
        """
        raise NotImplementedError

    def read_dataset(self, split: str) -> ClassificationDataset:
        """Read a split with its transform."""
        return self.dataset(split, self.train_transform if split == "train" else self.val_transform)

    def dataset(self, split: str, transform: ClassificationTransform) -> ClassificationDataset:
        """Read a split with any transform.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        require_split(self.root, self.splits, split)
        table = self.read_table(split)
        check_labels(table, self.num_classes)
        return ClassificationDataset(table, transform, self.seed, self.on_error)
