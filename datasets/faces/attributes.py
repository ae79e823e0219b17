"""Data modules of face attributes: CelebA, and any table of images and yes/no labels."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from ..classification.image_folder import find_images
from ..data_errors import OnError, data_log
from ..errors import DataError
from ..image_module import (
    ImageDataModule,
    TableDataset,
    collate_fields,
    given_splits,
    require_size,
    require_split,
)
from ..images import ImageFile
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
    """Position in the dataset of the image that was read."""
    path: str


class AttributeDataset(TableDataset[AttributeSample]):
    """Cropped faces with their labels; see `TableDataset` for the other arguments.

    Args:
        missing: Number of files that were left out because they do not exist.

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
        super().__init__(table, transform, seed, on_error)
        self.missing = missing
        self.people, self.identities = people_of(table)
        self._no_landmarks = np.full((5, 2), np.nan, dtype=np.float32)

    @property
    def label_counts(self) -> np.ndarray:
        """(A, 2) int64: number of images known to lack and to have each attribute."""
        return label_counts(self.table.labels)

    def read_sample(self, index: int, rng: np.random.Generator) -> AttributeSample:
        """See `ImageDataset`."""
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
    return AttributeBatch(*collate_fields(samples))


class AttributeDataModule(ImageDataModule):
    """Faces with yes/no labels; a subclass defines ``read_table``.

    Args:
        root: Folder of the dataset.
        splits: "train", "val", "test" -> what the subclass needs to find it; None for none.
        attributes: Those to use, in this order; null uses all.
        size_hw: Height and width of the network's input in px; no wider than high.
        train_transform: null is ``RandomFaceCrop(size_hw)``.
        val_transform: null is ``FaceCrop(size_hw)``.
        unlabelled: Folder of further training images without labels, for learning from a
            teacher; each is a face framed as CelebA's aligned images are.
        **options: See `ImageDataModule`.
    """

    collate = staticmethod(collate_attributes)

    def __init__(
        self,
        root: str | Path,
        splits: Mapping[str, Any],
        attributes: list[str] | None = None,
        size_hw: tuple[int, int] = (160, 128),
        train_transform: FaceCropping | None = None,
        val_transform: FaceCropping | None = None,
        unlabelled: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.splits = given_splits(splits)
        self.attributes = attributes
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or RandomFaceCrop(self.size_hw)
        self.val_transform = val_transform or FaceCrop(self.size_hw)
        self.unlabelled = None if unlabelled is None else Path(unlabelled)
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
        """List the faces of "train", "val" or "test"; none is opened."""
        raise NotImplementedError

    def table_of(self, split: str) -> LabelTable:
        """Read a table with the chosen attributes."""
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
        """Read a split with any transform; missing files stop it or are counted."""
        table, missing = without_missing(self.table_of(split), self.root)
        if self.on_error == "raise":
            refuse_missing(self.root, missing)
        elif missing:
            named = ", ".join(missing[:10])
            data_log.warning("%s: %d missing files left out: %s", table.name, len(missing), named)
        if split == "train" and self.unlabelled is not None:
            table = with_unlabeled(table, self.unlabelled)
        return self.make_dataset(split, table, transform, len(missing))

    def make_dataset(
        self,
        split: str,  # noqa: ARG002
        table: LabelTable,
        transform: FaceCropping,
        missing: int,
    ) -> AttributeDataset:
        """Return the dataset of a table, of which ``missing`` files were left out."""
        return AttributeDataset(table, transform, self.seed, self.on_error, missing)


def people_of(table: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """Number the people of a table without gaps, see `AttributeDataset` for the result."""
    if table.identities is None:
        return np.empty(0, np.int64), np.full(len(table.paths), -1, np.int64)
    known = table.identities >= 0
    people, index = np.unique(table.identities[known], return_inverse=True)
    identities = np.full(len(table.paths), -1, np.int64)
    identities[known] = index
    return people, identities


def with_unlabeled(table: LabelTable, folder: Path) -> LabelTable:
    """Append the images of a folder, else a `DataError`, to a table, with unknown labels."""
    more = find_images(folder)
    if not more:
        raise DataError(f"{folder}: no images in it; give another folder as data.unlabelled")
    count = len(table.paths)
    labels = np.full((len(more), len(table.attributes)), UNKNOWN, dtype=np.int8)
    landmarks = np.full((count + len(more), 5, 2), np.nan, dtype=np.float32)
    if table.landmarks is not None:
        landmarks[:count] = table.landmarks
    identities = table.identities
    if identities is not None:
        identities = np.concatenate([identities, np.full(len(more), -1, np.int64)])
    name, labels = f"{table.name} and {folder.name}", np.concatenate([table.labels, labels])
    return LabelTable(name, table.attributes, [*table.paths, *more], labels, landmarks, identities)


class CelebAModule(AttributeDataModule):
    """CelebA or a subset of it, see ``datasets/faces/celeba.py``; the partitions are the splits.

    Args:
        root: Folder with the lists and ``img_align_celeba``.
        **options: See `AttributeDataModule`.
    """

    def __init__(self, root: str | Path, **options: Any) -> None:
        super().__init__(root, PARTITIONS, **options)

    @cached_property
    def celeba(self) -> CelebA:
        """The whole dataset, read once; see `read_celeba`."""
        return read_celeba(self.root)

    def setup(self, stage: str) -> None:
        """Read what a stage needs, and report the sizes of the partitions."""
        super().setup(stage)
        rank_zero_info("%s: %s", self.root, self.celeba.sizes())

    def read_table(self, split: str) -> LabelTable:
        """See `AttributeDataModule`."""
        return self.celeba.split(split)


class LabelTableModule(AttributeDataModule):
    """Faces listed by tables, one for each split: ``file`` and a column for each attribute.

    Cells are 1 for yes, 0 (or everywhere -1) for no, and empty where it is not known; see
    ``datasets/faces/labels.py``. With CelebA's ten landmark columns faces are aligned; without
    them an image has to be a face framed as CelebA's aligned images are.

    Args:
        root: Folder that tables and files are relative to.
        train: The training table, ``.csv`` or ``.parquet``.
        val: The validation table.
        test: The test table; null uses the validation split.
        file_column: The column of files.
        **options: See `AttributeDataModule`.
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
        super().__init__(root, {"train": train, "val": val, "test": test}, **options)
        self.file_column = file_column
        self._tables: dict[str, LabelTable] = {}

    def read_table(self, split: str) -> LabelTable:
        """See `AttributeDataModule`; all splits have the attributes of the training table."""
        if split not in self._tables:
            attributes = None if split == "train" else self.read_table("train").attributes
            self._tables[split] = read_label_table(
                self.root / self.splits[split], self.root, attributes, self.file_column,
                f"{self.root.name} {split}",
            )  # fmt: skip
        return self._tables[split]
