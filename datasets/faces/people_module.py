"""Where faces with labels and with people come from: for networks that describe and recognise."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .attribute_modules import CelebAModule
from .attributes import AttributeDataset
from .crops import FaceCropping
from .labels import LabelTable
from .pairs import make_pairs
from .sources import Faces


class PeopleDataset(AttributeDataset):
    """Faces with their labels that are a set of people, too.

    Args:
        table: What to read; all pictures lie in one folder.
        transform: Makes the crop.
        pairs_per_fold: Pairs of one person, and of two, in each of ten folds; None draws none.
        **options: See `AttributeDataset`.

    Attributes:
        faces: The files with their people and pairs, in the order of the table. Their pixels are
            those of ``transform``, whatever their landmarks would make of them elsewhere.

    Raises:
        DataError: Pairs are asked for and cannot be drawn.
    """

    def __init__(
        self,
        table: LabelTable,
        transform: FaceCropping,
        pairs_per_fold: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(table, transform, **options)
        paths = [Path(path) for path in table.paths]
        self.faces = Faces(
            name=table.name,
            root=paths[0].parent,
            files=tuple(path.name for path in paths),
            landmarks_xy=None if table.landmarks is None else table.landmarks.astype(np.float64),
            identities=self.identities,
            people=tuple(str(number) for number in self.people.tolist()),
        )
        if pairs_per_fold is not None:
            pairs = make_pairs(self.identities, pairs_per_fold, name=table.name)
            self.faces = self.faces._replace(pairs=pairs)

    def summary(self) -> str:
        """One line for the log."""
        pairs = self.faces.pairs
        drawn = "" if pairs is None else f", {len(pairs.same):,} pairs"
        return f"{super().summary()}, {len(self.people):,} people{drawn}"


class CelebAPeopleModule(CelebAModule):
    """CelebA with labels and people at once, see ``datasets/faces/celeba.py``.

    Pairs of held-out faces are drawn as LFW's were; nobody is in two partitions of CelebA.

    Args:
        root: Folder with the lists, ``identity_CelebA.txt`` among them, and ``img_align_celeba``.
        pairs_per_fold: Pairs of one person, and of two, in each of ten folds of the held-out
            people; fewer where they have fewer.
        **options: See `AttributeDataModule`; ``unlabelled`` pictures have no people and are
            refused.

    Raises:
        DataError: An option is out of its range.
    """

    def __init__(self, root: str | Path, pairs_per_fold: int = 300, **options: Any) -> None:
        super().__init__(root, **options)
        self.pairs_per_fold = pairs_per_fold
        if pairs_per_fold < 1 or self.unlabelled is not None:
            raise DataError(
                f"pairs_per_fold={pairs_per_fold} must be at least 1, and unlabelled="
                f"{self.unlabelled} null: its pictures are of nobody known"
            )

    def read_table(self, split: str) -> LabelTable:
        """See `AttributeDataModule`.

        Raises:
            DataError: A list is absent or faulty, or there are no identities.
        """
        table = super().read_table(split)
        if table.identities is None:
            raise DataError(
                f"{self.root}: there is no identity_CelebA.txt, so nobody is known. Put it beside "
                "the other lists; Kaggle's copy lacks it, CelebA's own pages have it."
            )
        return table

    def make_dataset(
        self, split: str, table: LabelTable, transform: FaceCropping, missing: int
    ) -> PeopleDataset:
        """See `AttributeDataModule`; held-out faces have pairs."""
        training = split == "train"
        return PeopleDataset(
            table,
            transform,
            None if training else self.pairs_per_fold,
            seed=self.seed,
            # A face that stood in for a broken one would leave that one's pairs without it.
            on_error=self.on_error if training else "raise",
            missing=missing,
        )
