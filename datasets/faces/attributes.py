"""Data modules of face attributes: CelebA, and any table of images and yes/no labels."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from ..classification.image_folder import IMAGE_SUFFIXES
from ..data_errors import OnError
from ..errors import DataError
from ..image_module import ImageDataModule, ImageDataset, require_size, require_split
from ..images import ImageFile
from ..sampling import SampleKey
from ..types import AttributeBatch
from .celeba import PARTITIONS, CelebA, read_celeba
from .crops import FaceCrop, FaceCropping, RandomFaceCrop
from .labels import (
    UNKNOWN,
    LabelTable,
    label_counts,
    read_label_table,
    refuse_missing,
    without_missing,
)

# A child of Lightning's logger, whose messages are shown by default.
_log = logging.getLogger("lightning.pytorch.mobilevision.data")


class AttributeSample(NamedTuple):
    """One face, ready for the network."""

    image: np.ndarray
    """(h, w, 3) uint8, RGB."""
    labels: np.ndarray
    """(A,) int8: 1 yes, 0 no, -1 not known."""
    landmarks: np.ndarray
    """(5, 2) float32, px of ``image``; NaN where they are not known."""
    identity: int
    """Person index; -1 where it is not known."""
    position: int
    """In the data set; of the image that was handed out."""
    path: str


class AttributeDataset(ImageDataset[AttributeSample]):
    """Reads, crops and hands out faces with their labels.

    Args:
        table: What to read.
        transform: Makes the crop.
        seed: At least 0.
        on_error: See `ImageDataset`; another image comes with its own labels.
        missing: Files that were left out because they do not exist.

    Attributes:
        people: P numbers of people as the table has them, rising.
        identities: (N,) int64, position in ``people``; -1 where it is not known.
    """

    def __init__(
        self,
        table: LabelTable,
        transform: FaceCropping,
        seed: int = 0,
        on_error: OnError = "raise",
        missing: int = 0,
    ) -> None:
        super().__init__(table.name, table.paths, seed, on_error)
        self.table = table
        self.transform = transform
        self.missing = missing
        self.people, self.identities = people_of(table)
        self._no_landmarks = np.full((5, 2), np.nan, dtype=np.float32)

    @property
    def label_counts(self) -> np.ndarray:
        """(A, 2) int64: images known to lack and to have each attribute."""
        return label_counts(self.table.labels)

    def __getitem__(self, key: SampleKey | int) -> AttributeSample:
        """Read the face of a key; a plain position stands for epoch 0.

        Raises:
            DataError: It cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        rng_key = self.rng_key(key)
        return self.first_readable(
            rng_key[-1], lambda index: self._sample(index, np.random.default_rng(rng_key))
        )

    def _sample(self, index: int, rng: np.random.Generator) -> AttributeSample:
        path = str(self.paths[index])
        points = self._no_landmarks if self.table.landmarks is None else self.table.landmarks[index]
        try:
            image, landmarks = self.transform(ImageFile(path), points, rng)
        except DataError as error:
            raise error if path in str(error) else DataError(f"{path}: {error}") from error
        owner = int(self.identities[index])
        return AttributeSample(image, self.table.labels[index], landmarks, owner, index, path)

    def summary(self) -> str:
        """One line for the log."""
        known = (self.table.labels != UNKNOWN).mean()
        left_out = f", {self.missing:,} missing files left out" if self.missing else ""
        return (
            f"{self.name}: {len(self):,} images, {len(self.table.attributes)} attributes, "
            f"{known:.1%} of the labels known{left_out}"
        )


def collate_attributes(samples: list[AttributeSample]) -> AttributeBatch:
    """Stack B samples of one size to a batch."""
    images, labels, landmarks, owners, positions, paths = zip(*samples, strict=True)
    return AttributeBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        labels=torch.from_numpy(np.stack(labels)),
        landmarks=torch.from_numpy(np.stack(landmarks)),
        identities=torch.tensor(owners, dtype=torch.int64),
        ids=torch.tensor(positions, dtype=torch.int64),
        paths=paths,
    )


class AttributeDataModule(ImageDataModule):
    """Faces with yes/no labels; a subclass gives ``read_table`` and says its ``splits``.

    Args:
        root: Folder of the data set.
        attributes: Those to take, in this order; null takes all.
        size_hw: Height and width of the network's input in px; no wider than high.
        train_transform: null is ``RandomFaceCrop(size_hw)``.
        val_transform: null is ``FaceCrop(size_hw)``.
        unlabeled: Folder of further training images without labels, for learning from a
            teacher; each is a face framed as CelebA's aligned images are.
        **options: See `ImageDataModule`.

    Raises:
        DataError: An option is out of its range.
    """

    collate = staticmethod(collate_attributes)

    def __init__(
        self,
        root: str | Path,
        attributes: list[str] | None = None,
        size_hw: tuple[int, int] = (160, 128),
        train_transform: FaceCropping | None = None,
        val_transform: FaceCropping | None = None,
        unlabeled: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.attributes = attributes
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or RandomFaceCrop(self.size_hw)
        self.val_transform = val_transform or FaceCrop(self.size_hw)
        self.unlabeled = None if unlabeled is None else Path(unlabeled)
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.size_hw)

    @property
    def categories(self) -> dict[int, str]:
        """Position -> name of the attributes, known from construction."""
        return dict(enumerate(self.table_of("train").attributes))

    @property
    def num_classes(self) -> int:
        """Number of attributes."""
        return len(self.categories)

    def read_table(self, split: str) -> LabelTable:
        """Read which faces "train", "val" or "test" has; none is opened.

        Raises:
            DataError: A file is absent or faulty.
        """
        raise NotImplementedError

    def table_of(self, split: str) -> LabelTable:
        """`read_table` with the attributes that were chosen.

        Raises:
            DataError: There is no such split or attribute, or a file is absent or faulty.
        """
        require_split(self.root, self.splits, split)
        table = self.read_table(split)
        if self.attributes is None:
            return table
        unknown = [name for name in self.attributes if name not in table.attributes]
        if unknown or not self.attributes:
            raise DataError(
                f"{self.root}: has no attributes {', '.join(unknown) or 'to learn'}; there are "
                f"{', '.join(table.attributes)}."
            )
        columns = [table.attributes.index(name) for name in self.attributes]
        return table._replace(attributes=tuple(self.attributes), labels=table.labels[:, columns])

    def read_dataset(self, split: str) -> AttributeDataset:
        """Read a split with its transform."""
        return self.dataset(split, self.train_transform if split == "train" else self.val_transform)

    def dataset(self, split: str, transform: FaceCropping) -> AttributeDataset:
        """Read a split with any transform; missing files stop it or are counted.

        Raises:
            DataError: There is no such split, or a file is absent or faulty.
        """
        table, missing = without_missing(self.table_of(split), self.root)
        if self.on_error == "raise":
            refuse_missing(self.root, missing)
        elif missing:
            named = ", ".join(missing[:10])
            _log.warning("%s: %d missing files left out: %s", table.name, len(missing), named)
        if split == "train" and self.unlabeled is not None:
            table = with_unlabeled(table, self.unlabeled)
        return self.make_dataset(split, table, transform, len(missing))

    def make_dataset(
        self,
        split: str,  # noqa: ARG002
        table: LabelTable,
        transform: FaceCropping,
        missing: int,
    ) -> AttributeDataset:
        """Make the data set of a table; ``missing`` files were left out of it."""
        return AttributeDataset(table, transform, self.seed, self.on_error, missing)


def people_of(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Number the people of a table without gaps.

    Returns:
        P numbers as the table has them, rising, and (N,) int64, the position among them, -1 where
        it is not known.
    """
    if table.identities is None:
        return np.empty(0, np.int64), np.full(len(table.paths), -1, np.int64)
    known = table.identities >= 0
    people, index = np.unique(table.identities[known], return_inverse=True)
    identities = np.full(len(table.paths), -1, np.int64)
    identities[known] = index
    return people, identities


def with_unlabeled(table: LabelTable, folder: Path) -> LabelTable:
    """A table and the images of a folder, whose labels are not known.

    Raises:
        DataError: There are none.
    """
    found = [p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    more = sorted(str(path) for path in found if not path.name.startswith("."))
    if not more:
        raise DataError(f"{folder}: no images in it; give another folder as data.unlabelled")
    count = len(table.paths)
    labels = np.full((len(more), len(table.attributes)), UNKNOWN, dtype=np.int8)
    landmarks = np.full((count + len(more), 5, 2), np.nan, dtype=np.float32)
    if table.landmarks is not None:
        landmarks[:count] = table.landmarks
    return LabelTable(
        f"{table.name} and {folder.name}",
        table.attributes,
        [*table.paths, *more],
        np.concatenate([table.labels, labels]),
        landmarks,
        None
        if table.identities is None
        else np.concatenate([table.identities, np.full(len(more), -1, np.int64)]),
    )


class CelebAModule(AttributeDataModule):
    """CelebA or a subset of it, see ``datasets/faces/celeba.py``; the partitions are the splits.

    Args:
        root: Folder with the lists and ``img_align_celeba``.
        **options: See `AttributeDataModule`.

    Raises:
        DataError: An option is out of its range.
    """

    def __init__(self, root: str | Path, **options: Any) -> None:
        super().__init__(root, **options)
        self.splits = dict(PARTITIONS)

    @cached_property
    def celeba(self) -> CelebA:
        """All of it, read once.

        Raises:
            DataError: A list is absent or faulty.
        """
        return read_celeba(self.root)

    def setup(self, stage: str) -> None:
        """Read what a stage needs, and report the sizes of the partitions."""
        super().setup(stage)
        rank_zero_info("%s: %s", self.root, self.celeba.sizes())

    def read_table(self, split: str) -> LabelTable:
        """See `AttributeDataModule`."""
        return self.celeba.split(split)


class LabelTableModule(AttributeDataModule):
    """Faces that tables list, one table for each split: ``file`` and a column for each attribute.

    Cells are 1 for yes, 0 (or everywhere -1) for no, and empty where it is not known; see
    ``datasets/faces/labels.py``. With CelebA's ten landmark columns faces are aligned; without
    them an image has to be a face framed as CelebA's aligned images are.

    Args:
        root: Folder that tables and files are relative to.
        train: The training table, ``.csv`` or ``.parquet``.
        val: The validation table.
        test: The test table; null takes the validation split.
        file_column: The column of files.
        **options: See `AttributeDataModule`.

    Raises:
        DataError: An option is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train.csv",
        val: str = "val.csv",
        test: str | None = None,
        file_column: str = "file",
        **options: Any,
    ) -> None:
        super().__init__(root, **options)
        self.splits = {"train": train, "val": val} | ({"test": test} if test else {})
        self.file_column = file_column
        self._tables: dict[str, LabelTable] = {}

    def read_table(self, split: str) -> LabelTable:
        """See `AttributeDataModule`; all splits have the attributes of the training table."""
        if split not in self._tables:
            attributes = None if split == "train" else self.read_table("train").attributes
            self._tables[split] = read_label_table(
                self.root / self.splits[split],
                self.root,
                attributes,
                self.file_column,
                f"{self.root.name} {split}",
            )
        return self._tables[split]
