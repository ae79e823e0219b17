"""Data modules of photos and where they were taken."""

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ..files import FileNames
from ..image_module import (
    ImageDataModule,
    ImageSource,
    TableDataset,
    collate_fields,
    given_splits,
    require_size,
    require_split,
)
from ..images import ImageFile, open_image
from ..sampling import EpochSampler, Progress
from ..transforms.classification import CenterCrop, ClassificationTransform, RandomCrop
from .coordinates import CellTable, PositionTable, read_cell_table, read_positions
from .shards import ShardIndex, read_index


class PhotoBatch(NamedTuple):
    """A batch of photos with their positions."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB."""
    latlng_deg: Tensor
    """(B, 2) float32, latitude and longitude in degrees; exact to 2 m."""
    ids: Tensor
    """(B,) int64, the position in the dataset, one for each photo."""
    paths: tuple[str, ...]


class PhotoSource(ImageSource, Protocol):
    """N photos with their positions."""

    @property
    def latlng_deg(self) -> np.ndarray:
        """(N, 2) float64, degrees."""
        ...


class PhotoFiles(NamedTuple):
    """A `PhotoSource` of files."""

    name: str
    paths: Sequence[str]
    latlng_deg: np.ndarray

    def image(self, index: int) -> ImageFile:
        """See `PhotoSource`."""
        return ImageFile(self.paths[index])


class PhotoSample(NamedTuple):
    """One photo, ready for the network."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    latlng_deg: np.ndarray
    """(2,) float64."""
    position: int
    """Position in the dataset of the photo that was read."""
    path: str


class PhotoDataset(TableDataset[PhotoSample]):
    """The photos of a `PhotoSource` with a `ClassificationTransform`."""

    def read_sample(self, index: int, rng: np.random.Generator) -> PhotoSample:
        """See `ImageDataset`."""
        pixels = self.transform(self.table.image(index), rng)
        return PhotoSample(pixels, self.table.latlng_deg[index], index, str(self.paths[index]))

    def summary(self) -> str:
        """One line for the log, without positions."""
        return f"{self.name}: {len(self):,} photos"


def collate_photos(samples: list[PhotoSample]) -> PhotoBatch:
    """Stack B samples of one size to a batch."""
    images, latlng_deg, ids, paths = collate_fields(samples)
    return PhotoBatch(images, latlng_deg.float(), ids, paths)


class PhotoDataModule(ImageDataModule):
    """Photos with positions, and the cells that are the classes.

    A subclass defines ``read_source``, and ``read_cells`` if cells are not read from files.

    Args:
        root: folder that tables and images are relative to.
        splits: "train", "val", "test" -> what the subclass needs to find it; None for none.
        cells: tables of one or several partitions (`mobilevision cells build`), coarse before
            fine, relative to the root; the last one is predicted.
        size_hw: height and width of the network's input in pixels.
        eval_size_hw: those of images in evaluation, of which the task takes crops; null is
            ``size_hw``.
        train_transform: null is ``RandomCrop(size_hw)``.
        val_transform: null is ``CenterCrop(eval_size_hw)``.
        **options: see `ImageDataModule`.
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
        self.splits = given_splits(splits)
        self.cells = cells
        self.size_hw = (size_hw[0], size_hw[1])
        self.eval_size_hw = (
            self.size_hw if eval_size_hw is None else (eval_size_hw[0], eval_size_hw[1])
        )
        self.train_transform = train_transform or RandomCrop(self.size_hw)
        self.val_transform = val_transform or CenterCrop(self.eval_size_hw)
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
                    f"{self.root}: there are no cells. Make them with `mobilevision cells build` "
                    "and name the file with the option data.cells."
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
        """Read the partitions."""
        return [read_cell_table(self.root / path) for path in self.cells]

    def read_source(self, split: str) -> PhotoSource:
        """List the photos of "train", "val" or "test"; none is opened."""
        raise NotImplementedError

    def read_dataset(self, split: str) -> PhotoDataset:
        """See `ImageDataModule`."""
        require_split(self.root, self.splits, split)
        transform = self.train_transform if split == "train" else self.val_transform
        return PhotoDataset(self.read_source(split), transform, self.seed, self.on_error)


class PhotoTableModule(PhotoDataModule):
    """Photos listed by tables (see `coordinates`), one for each split, with a folder of images.

    Args:
        root: folder that tables and images are relative to.
        train: the training table, csv or Parquet.
        val: the validation table.
        test: the test table, such as that of Im2GPS3k; null uses the validation split.
        images: folder of the images of training and validation, relative to the root.
        test_images: folder of those of the test table; null is ``images``.
        **options: see `PhotoDataModule`.
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
        super().__init__(root, {"train": train, "val": val, "test": test}, **options)
        self.images = images
        self.test_images = images if test_images is None else test_images

    def read_source(self, split: str) -> PhotoFiles:
        """See `PhotoDataModule`."""
        path = self.root / self.splits[split]
        folder = self.root / (self.test_images if split == "test" else self.images)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of images; see the option data.images")
        table: PositionTable = read_positions(path, f"{self.root.name} {path.stem}")
        paths = FileNames(folder).locate_all(table.files, path)
        return PhotoFiles(table.name, paths, table.latlng_deg)


class ShardImage(ImageFile):
    """A photo in a shard: ``length`` bytes from ``offset`` on, read when they are asked for."""

    restore = "Write the shard again."

    def __init__(self, path: Path, offset: int, length: int, name: str) -> None:
        super().__init__(f"{path}:{name}")
        self._place = path, offset, length

    @cached_property
    def _data(self) -> bytes:
        path, offset, length = self._place
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _read_bytes(self) -> bytes:
        return self._data

    def _open(self) -> Image.Image:
        return open_image(io.BytesIO(self._data), str(self.path))


class ShardedPhotos:
    """A `PhotoSource` of the photos in shards."""

    def __init__(self, index: ShardIndex, name: str) -> None:
        self.index = index
        self.name = name
        self.latlng_deg = index.latlng_deg

    @property
    def paths(self) -> Sequence[str]:
        """N names."""
        return self.index.files  # type: ignore[return-value]

    def image(self, index: int) -> ShardImage:
        """See `PhotoSource`."""
        places = self.index
        path = places.folder / places.shards[int(places.shard[index])]
        offset, length = int(places.offset[index]), int(places.length[index])
        return ShardImage(path, offset, length, str(places.files[index]))


class ShardSampler(EpochSampler):
    """An `EpochSampler` with shards in random order, and photos within a few shards at a time.

    ``shard`` (N,) int64, rising, is the shard of each photo; ``window`` shards, at least 1, are
    mixed with each other.
    """

    def __init__(
        self,
        shard: np.ndarray,
        window: int = 8,
        seed: int = 0,
        progress: Callable[[], Progress] | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(len(shard), seed, progress=progress, rank=rank, world_size=world_size)
        self.window = window
        self._starts = np.flatnonzero(np.r_[True, np.diff(shard) > 0])
        self._ends = np.r_[self._starts[1:], len(shard)]

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions (N,) int64 of all photos in the order of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        shards = rng.permutation(len(self._starts))
        parts = []
        for start in range(0, len(shards), self.window):
            near = shards[start : start + self.window].tolist()
            rows = [np.arange(int(self._starts[each]), int(self._ends[each])) for each in near]
            parts.append(rng.permutation(np.concatenate(rows)))
        return np.concatenate(parts)


class ShardedPhotoModule(PhotoDataModule):
    """Photos in folders of tar shards, one folder for each split.

    Args:
        root: folder that everything is relative to.
        train: folder of the training shards.
        val: that of the validation shards.
        test: that of the test shards; null uses the validation split.
        window: training shards that are mixed with each other at a time.
        **options: see `PhotoDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str = "val",
        test: str | None = None,
        window: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, **options)
        if window < 1:
            raise DataError(f"window={window} must be at least 1")
        self.window = window

    def read_source(self, split: str) -> ShardedPhotos:
        """See `PhotoDataModule`."""
        return ShardedPhotos(
            read_index(self.root / self.splits[split]), f"{self.root.name} {split}"
        )

    def setup(self, stage: str) -> None:
        """Read what a stage needs, and shuffle shard-wise."""
        super().setup(stage)
        if stage == "fit":
            photos: ShardedPhotos = self.datasets["train"].table
            self.train_sampler = ShardSampler(
                photos.index.shard, self.window, self.seed, progress=self._progress
            )
