"""Where the labelled faces come from: CelebA, or tables of anybody's."""

from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .attributes import AttributeDataModule
from .celeba import PARTITIONS, CelebA, read_celeba
from .labels import LabelTable, read_label_table


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
    them a picture has to be a face framed as CelebA's aligned pictures are.

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
