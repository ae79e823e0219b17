"""Data modules of faces: views for training, pairs for verification."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from ..data_errors import OnError
from ..errors import DataError
from ..image_module import ImageDataModule, ImageDataset, collate_fields, given_splits
from ..sampling import EpochSampler, PeopleSampler, SampleKey
from ..types import FaceBatch
from .attributes import AttributeDataset, CelebAModule
from .crops import FaceCropping
from .labels import LabelTable
from .pairs import make_pairs
from .sources import Faces, FaceSource
from .views import FaceViews, ViewRecipe, student_noise

Sample = tuple[np.ndarray, int, int, int, str]
"""Face (H, W, 3) uint8, person (-1 where two are mixed), view, position, file."""
_NOISE = 1  # a stream of random numbers apart from others of the same key


class FaceDataset(ImageDataset[Sample]):
    """Draws one view of each face and epoch.

    Args:
        views: Draws them.
        num_views: K: in K epochs each file shows each of its views 0 to K - 1 once, in another
            order for each file. None draws views that are never repeated (1, 2, 3, ...). 1 is the
            plain face, as in evaluation.
        noise: See `student_noise`; it is not in the teacher's table.
        seed: Seed of the noise.
        on_error: See `ImageDataset`.
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
        """Draw the view of a position in an epoch; see `ImageDataset`."""
        _, epoch, position = rng_key = self.rng_key(key)
        noise_rng = np.random.default_rng((*rng_key, _NOISE))
        return self.first_readable(position, lambda index: self._read(index, epoch, noise_rng))

    def _read(self, index: int, epoch: int, rng: np.random.Generator) -> Sample:
        view = self.view_of(index, epoch)
        face = student_noise(self.views.render(index, view), self.noise, rng)
        owner = -1 if self.views.is_mixed(index, view) else int(self.views.faces.identities[index])
        return face, owner, view, index, self.paths[index]

    def view_of(self, index: int, epoch: int) -> int:
        """Return the number of the view that a file shows in an epoch, from 0."""
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
    """Stack B samples of one size to a batch."""
    images, identities, views, ids, paths = collate_fields(samples)
    return FaceBatch(images, identities, views, ids, paths)


class FaceDataModule(ImageDataModule):
    """Faces from any sources, one for each split.

    Validation and test need pairs. Never use the same people for training and for test.

    Args:
        train: Training faces.
        val: Faces with pairs.
        test: Faces with pairs; null tests on ``val``.
        size_hw: Height and width of the network's input, equal.
        views: Views of each training face, see `FaceDataset`; 1 trains on plain faces. A table of
            a teacher's embeddings needs the same number.
        recipe: Strength of the views; null is the default, as `mobilevision embed` draws them.
        view_seed: Seed of the views; that of `mobilevision embed`.
        noise: Photometric noise on top, which no teacher's table has; see `student_noise`.
        keep_images: Whether each worker keeps the decoded training images in memory, which makes
            views in less than half the time; 0.7 GB for 5,700 images of CelebA.
        faces_per_person: K: a batch of training has K faces of each of its people, as a
            `TripletLoss` wants it; see `PeopleSampler`. Null draws faces whoever they show.
        **options: See `ImageDataModule`.
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
        keep_images: bool = False,
        faces_per_person: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.splits = given_splits({"train": train, "val": val, "test": test})
        if size_hw[0] != size_hw[1] or size_hw[0] < 1 or (views is not None and views < 1):
            raise DataError(
                f"size_hw={tuple(size_hw)} must be square, and views={views} at least 1 or null"
            )
        if noise < 0 or view_seed < 0:
            raise DataError(f"noise={noise} and view_seed={view_seed} must be at least 0")
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.views = views
        self.recipe = recipe
        self.view_seed = view_seed
        self.noise = noise
        self.keep_images = keep_images
        self.faces_per_person = k = faces_per_person
        if k is not None and (k < 2 or self.batch_size % k or self.batch_size < 2 * k):
            raise DataError(
                f"faces_per_person={k} must be at least 2, and batch_size={self.batch_size} a "
                "multiple of it, at least twice as large"
            )

    def make_sampler(self, dataset: ImageDataset[Any]) -> EpochSampler:
        """See `ImageDataModule`; with ``faces_per_person`` batches are drawn by people."""
        faces = self.faces_per_person
        if faces is None:
            return super().make_sampler(dataset)
        people = self.batch_size // faces
        owners = self.datasets["train"].views.faces.identities
        sampler = PeopleSampler(owners, people, faces, self.seed, progress=self._progress)
        lacking, left_out = sampler.left_out
        rank_zero_info(
            f"Batches of {people} people with {faces} faces each; {lacking:,} people have fewer "
            f"and are left out, {left_out:,} faces with those of nobody known"
        )
        return sampler

    def read_dataset(self, split: str) -> FaceDataset:
        """See `ImageDataModule`; held-out faces need pairs."""
        faces: Faces = self.splits[split].read()
        keep = self.keep_images and split == "train"
        views = FaceViews(faces, self.size_hw[0], self.view_seed, self.recipe, keep)
        if split == "train":
            return FaceDataset(views, self.views, self.noise, self.seed, self.on_error)
        if faces.pairs is None:
            raise DataError(
                f"{faces.name}: the {split} faces have no pairs. Name a list (pairs) or have them "
                "drawn (make_pairs)."
            )
        # Another face in place of a broken one would be measured under its name.
        return FaceDataset(views)


class PeopleDataset(AttributeDataset):
    """Faces with labels, people and pairs; see `AttributeDataset` for the other arguments.

    Args:
        table: The faces; all images lie in one folder.
        transform: Makes the crop.
        pairs_per_fold: Pairs of one person, and of two, in each of ten folds; None draws none. It
            is a `DataError` if they cannot be drawn.

    Attributes:
        faces: The files with their people and pairs, in the order of the table. They are cropped
            by ``transform``, not aligned by their landmarks.
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
    """CelebA with labels and people, see ``datasets/faces/celeba.py``.

    Pairs of held-out faces are drawn as LFW's were; nobody is in two partitions of CelebA.

    Args:
        root: Folder with the lists, ``identity_CelebA.txt`` among them, and ``img_align_celeba``.
        pairs_per_fold: Pairs of one person, and of two, in each of ten folds of the held-out
            people; fewer if there are fewer.
        **options: See `AttributeDataModule`; ``unlabelled`` images have no people and are
            refused.
    """

    def __init__(self, root: str | Path, pairs_per_fold: int = 300, **options: Any) -> None:
        super().__init__(root, **options)
        self.pairs_per_fold = pairs_per_fold
        if pairs_per_fold < 1 or self.unlabelled is not None:
            raise DataError(
                f"pairs_per_fold={pairs_per_fold} must be at least 1, and unlabelled="
                f"{self.unlabelled} null: its images are of nobody known"
            )

    def read_table(self, split: str) -> LabelTable:
        """See `AttributeDataModule`; there must be identities."""
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
            # Another face in place of a broken one would spoil the pairs of that one.
            on_error=self.on_error if training else "raise",
            missing=missing,
        )
