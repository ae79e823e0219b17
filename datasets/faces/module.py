"""Data module of faces: views of them for training, pairs of them for verification."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data_errors import OnError
from ..errors import DataError
from ..image_module import ImageDataModule, ImageDataset
from ..sampling import SampleKey
from ..types import FaceBatch
from .attributes import AttributeDataset, CelebAModule
from .crops import FaceCropping
from .labels import LabelTable
from .pairs import make_pairs
from .sources import Faces, FaceSource
from .views import FaceViews, ViewRecipe, student_noise

Sample = tuple[np.ndarray, int, int, int, str]
"""Face (H, W, 3) uint8, person, view, position, file."""
_NOISE = 1  # a stream of random numbers apart from others of the same key


class FaceDataset(ImageDataset[Sample]):
    """Draws one view of each face and epoch.

    Args:
        views: Draws them.
        num_views: K: in K epochs each file shows each of its views 0 to K - 1 once, in another
            order for each file. None draws views that are never seen again (1, 2, 3, ...). 1 is
            the plain face, as evaluation has it.
        noise: See `student_noise`; of this sample alone, so that the teacher's table knows
            nothing of it.
        seed: Of the noise.
        on_error: What an image that cannot be read leads to.
    """

    def __init__(
        self,
        views: FaceViews,
        num_views: int | None = 1,
        noise: float = 0.0,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(views.faces.name, views.faces.paths, seed, on_error)
        self.views = views
        self.num_views = num_views
        self.noise = noise

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """Draw the view that a position shows in an epoch.

        Raises:
            DataError: The image cannot be read, and ``on_error`` is "raise".
        """
        _, epoch, position = rng_key = self.rng_key(key)
        noise_rng = np.random.default_rng((*rng_key, _NOISE))
        return self.first_readable(position, lambda index: self._read(index, epoch, noise_rng))

    def _read(self, index: int, epoch: int, rng: np.random.Generator) -> Sample:
        view = self.view_of(index, epoch)
        face = student_noise(self.views.render(index, view), self.noise, rng)
        owner = int(self.views.faces.identities[index])
        return face, owner, view, index, self.paths[index]

    def view_of(self, index: int, epoch: int) -> int:
        """Which view a file shows in an epoch, from 0."""
        if self.num_views is None:
            return epoch + 1
        turn, place = divmod(epoch, self.num_views)
        if self.num_views == 1:
            return 0
        order = np.random.default_rng((self.seed, index, turn)).permutation(self.num_views)
        return int(order[place])

    def summary(self) -> str:
        """One line for the log."""
        faces = self.views.faces
        of_people = f" of {len(faces.people):,} people" if faces.people else ""
        pairs = "" if faces.pairs is None else f", {len(faces.pairs.same):,} pairs"
        drawn = {None: ", new views each epoch", 1: ""}.get(
            self.num_views, f", {self.num_views} views of each"
        )
        return f"{self.name}: {len(self):,} faces{of_people}{pairs}{drawn}"


def collate(samples: list[Sample]) -> FaceBatch:
    """Stack samples; images stay in the order of memory that channels_last wants."""
    faces, owners, views, positions, paths = zip(*samples, strict=True)
    return FaceBatch(
        torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2),
        torch.tensor(owners),
        torch.tensor(views),
        torch.tensor(positions),
        tuple(paths),
    )


class FaceDataModule(ImageDataModule):
    """Faces from any sources; which faces go where is said by naming a source for each split.

    Validation and test need pairs. Never take the same people for training and for test.

    Args:
        train: Faces to learn from.
        val: Faces with pairs.
        test: Faces with pairs; null tests on ``val``.
        size_hw: Height and width of the network's input, equal.
        views: Views of each training face, see `FaceDataset`; 1 trains on plain faces. A table of
            a teacher's embeddings has to have as many.
        recipe: How far views go; null is the default, as `mobilevision embed` draws them.
        view_seed: Of the views; that of `mobilevision embed`.
        noise: Photometric noise on top, which no teacher's table sees; see `student_noise`.
        **options: See `ImageDataModule`.

    Raises:
        DataError: An option is out of its range.
    """

    collate = staticmethod(collate)

    def __init__(
        self,
        train: FaceSource,
        val: FaceSource,
        test: FaceSource | None = None,
        size_hw: tuple[int, int] = (160, 160),
        views: int | None = 1,
        recipe: ViewRecipe | None = None,
        view_seed: int = 0,
        noise: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if size_hw[0] != size_hw[1] or size_hw[0] < 1 or (views is not None and views < 1):
            raise DataError(
                f"size_hw={tuple(size_hw)} must be square, and views={views} at least 1 or null"
            )
        if noise < 0 or view_seed < 0:
            raise DataError(f"noise={noise} and view_seed={view_seed} must be at least 0")
        self.splits: dict[str, FaceSource] = {"train": train, "val": val}
        if test is not None:
            self.splits["test"] = test
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.views = views
        self.recipe = recipe
        self.view_seed = view_seed
        self.noise = noise

    def read_dataset(self, split: str) -> FaceDataset:
        """Read the data set of "train", "val" or "test".

        Raises:
            DataError: A file is absent or faulty, or held-out faces have no pairs.
        """
        faces = self.splits[split].read()
        views = FaceViews(faces, self.size_hw[0], self.view_seed, self.recipe)
        if split == "train":
            return FaceDataset(views, self.views, self.noise, self.seed, self.on_error)
        if faces.pairs is None:
            raise DataError(
                f"{faces.name}: the {split} faces have no pairs. Name a list (pairs) or have them "
                "drawn (make_pairs)."
            )
        # A face that stands in for a broken one would be measured under its name.
        return FaceDataset(views)


class PeopleDataset(AttributeDataset):
    """Faces with their labels that are a set of people, too.

    Args:
        table: What to read; all images lie in one folder.
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
        **options: See `AttributeDataModule`; ``unlabelled`` images have no people and are
            refused.

    Raises:
        DataError: An option is out of its range.
    """

    def __init__(self, root: str | Path, pairs_per_fold: int = 300, **options: Any) -> None:
        super().__init__(root, **options)
        self.pairs_per_fold = pairs_per_fold
        if pairs_per_fold < 1 or self.unlabeled is not None:
            raise DataError(
                f"pairs_per_fold={pairs_per_fold} must be at least 1, and unlabeled="
                f"{self.unlabeled} null: its images are of nobody known"
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
