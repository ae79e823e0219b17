"""Base classes of datasets and data modules for classification."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import DataError
from ..image_module import (
    ImageDataModule,
    ImageSource,
    TableDataset,
    collate_fields,
    given_splits,
    require_size,
    require_split,
)
from ..images import ImageFile
from ..transforms.classification import CenterCrop, ClassificationTransform, RandomCrop
from ..types import ClassificationBatch

NO_LABEL = -1


class ImageTable(ImageSource, Protocol):
    """N images with their classes."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, class index, -1 where it is not known."""
        ...


class FileTable(NamedTuple):
    """An `ImageTable` of files."""

    name: str
    paths: Sequence[str]
    labels: np.ndarray

    def image(self, index: int) -> ImageFile:
        """See `ImageTable`."""
        return ImageFile(self.paths[index])


class ClassificationSample(NamedTuple):
    """One image, ready for the network."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    label: int
    position: int
    """Position in the dataset of the image that was read."""
    path: str


class ClassificationDataset(TableDataset[ClassificationSample]):
    """The images of an `ImageTable` with a `ClassificationTransform`."""

    def read_sample(self, index: int, rng: np.random.Generator) -> ClassificationSample:
        """See `ImageDataset`."""
        pixels = self.transform(self.table.image(index), rng)
        label, path = int(self.table.labels[index]), str(self.paths[index])
        return ClassificationSample(pixels, label, index, path)

    def summary(self) -> str:
        """One line for the log: images and classes."""
        known = self.table.labels[self.table.labels != NO_LABEL]
        return f"{self.name}: {len(self):,} images of {len(np.unique(known)):,} classes"


def collate_classification(samples: list[ClassificationSample]) -> ClassificationBatch:
    """Stack B samples of one size to a batch."""
    return ClassificationBatch(*collate_fields(samples))


def check_labels(table: ImageTable, num_classes: int) -> None:
    """Raise a `DataError` if a label is not in [-1, num_classes)."""
    bad = (table.labels < NO_LABEL) | (table.labels >= num_classes)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{table.paths[row]}: its class {table.labels[row]} is not in 0 ... {num_classes - 1}"
        )


class ClassificationDataModule(ImageDataModule):
    """Images with one class each; a subclass defines ``read_table`` and ``read_categories``.

    Args:
        root: folder of the dataset.
        splits: "train", "val", "test" -> what the subclass needs to find it; None for none.
        categories: key -> name of the classes, in class order; None calls ``read_categories``.
        size_hw: height and width of the network's input in pixels.
        train_transform: null is ``RandomCrop(size_hw)``.
        val_transform: null is ``CenterCrop(size_hw)``.
        **options: see `ImageDataModule`.
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
        self.splits = given_splits(splits)
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
        """Read the classes from the data, as ``categories`` has them."""
        raise NotImplementedError

    def read_table(self, split: str) -> ImageTable:
        """List the images of "train", "val" or "test"; none is opened."""
        raise NotImplementedError

    def read_dataset(self, split: str) -> ClassificationDataset:
        """Read a split with its transform."""
        return self.dataset(split, self.train_transform if split == "train" else self.val_transform)

    def dataset(self, split: str, transform: ClassificationTransform) -> ClassificationDataset:
        """Read a split with any transform."""
        require_split(self.root, self.splits, split)
        table = self.read_table(split)
        check_labels(table, self.num_classes)
        return ClassificationDataset(table, transform, self.seed, self.on_error)
