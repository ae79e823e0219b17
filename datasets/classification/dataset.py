"""Pictures with one class each: a table of them, samples by number, and batches."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ..data_errors import OnError
from ..errors import DataError
from ..image_dataset import ImageDataset
from ..images import ImageFile
from ..sampling import SampleKey
from ..transforms.classification import ClassificationTransform
from ..types import ClassificationBatch

NO_LABEL = -1


class PictureTable(Protocol):
    """What a reader ends in: N pictures with their classes."""

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

    def picture(self, index: int) -> ImageFile:
        """The picture at a position; nothing is read yet."""
        ...


class FileTable(NamedTuple):
    """Pictures that are files."""

    name: str
    paths: Sequence[str]
    labels: np.ndarray

    def picture(self, index: int) -> ImageFile:
        """See `PictureTable`."""
        return ImageFile(self.paths[index])

    def take(self, name: str, rows: np.ndarray) -> "FileTable":
        """Some of them: positions (M,) int64."""
        paths = [self.paths[int(row)] for row in rows]
        return FileTable(name, paths, self.labels[rows])


class ClassificationSample(NamedTuple):
    """One picture, ready for the network."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    label: int
    position: int
    """In the data set; of the picture that was handed out."""
    path: str


class ClassificationDataset(ImageDataset[ClassificationSample]):
    """Reads, augments and hands out pictures with their class.

    The augmentation of a picture depends on seed, epoch and position alone.

    Args:
        table: what to read.
        transform: makes the network's input.
        seed: at least 0.
        on_error: see `ImageDataset`; another picture comes with its own label.
    """

    def __init__(
        self,
        table: PictureTable,
        transform: ClassificationTransform,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(table.name, table.paths, seed, on_error)
        self.table = table
        self.transform = transform

    def __getitem__(self, key: SampleKey | int) -> ClassificationSample:
        """Read the picture of a key; a plain position stands for epoch 0.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        rng_key = self.rng_key(key)
        return self.first_readable(
            rng_key[-1], lambda index: self._sample(index, np.random.default_rng(rng_key))
        )

    def _sample(self, index: int, rng: np.random.Generator) -> ClassificationSample:
        pixels = self.transform(self.table.picture(index), rng)
        return ClassificationSample(
            pixels, int(self.table.labels[index]), index, str(self.paths[index])
        )

    def summary(self) -> str:
        """One line for the log: pictures and classes."""
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


def check_labels(table: PictureTable, num_classes: int) -> None:
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
