"""Photos and where they were taken: samples by number, batches, and the data modules."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..data_errors import OnError
from ..errors import DataError
from ..files import FileNames
from ..image_module import ImageDataModule, ImageDataset, require_size, require_split
from ..images import ImageFile, open_image, rgb_pixels
from ..sampling import EpochSampler, Progress, SampleKey
from ..transforms.classification import CenterCrop, ClassificationTransform, RandomCrop
from .coordinates import CellTable, PositionTable, read_cell_table, read_positions
from .shards import ShardIndex, read_index


class PhotoBatch(NamedTuple):
    """A batch of photos with their positions."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB; as decoded, so in memory order channels_last."""
    latlng_deg: Tensor
    """(B, 2) float32, latitude and longitude in degrees; exact to 2 m."""
    ids: Tensor
    """(B,) int64, the position in the data set, one for each photo."""
    paths: tuple[str, ...]
    """The files the photos come from."""


class PhotoSource(Protocol):
    """N photos with their positions."""

    @property
    def name(self) -> str:
        """What results call the data."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """N names of files, each once."""
        ...

    @property
    def latlng_deg(self) -> np.ndarray:
        """(N, 2) float64, degrees."""
        ...

    def image(self, index: int) -> Any:
        """The photo at a position, with ``read`` and ``size_hw``; nothing is read yet."""
        ...


class PhotoFiles(NamedTuple):
    """Photos that are files."""

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
    """In the data set; of the photo that was handed out."""
    path: str


class PhotoDataset(ImageDataset[PhotoSample]):
    """Reads, augments and hands out photos with their position.

    The augmentation of a photo depends on seed, epoch and position alone.

    Args:
        source: what to read.
        transform: makes the network's input.
        seed: at least 0.
        on_error: see `ImageDataset`; another photo comes with its own position.
    """

    def __init__(
        self,
        source: PhotoSource,
        transform: ClassificationTransform,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(source.name, source.paths, seed, on_error)
        self.source = source
        self.transform = transform

    def __getitem__(self, key: SampleKey | int) -> PhotoSample:
        """Read the photo of a key; a plain position stands for epoch 0.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        rng_key = self.rng_key(key)
        return self.first_readable(
            rng_key[-1], lambda index: self._sample(index, np.random.default_rng(rng_key))
        )

    def _sample(self, index: int, rng: np.random.Generator) -> PhotoSample:
        pixels = self.transform(self.source.image(index), rng)
        return PhotoSample(pixels, self.source.latlng_deg[index], index, str(self.paths[index]))

    def summary(self) -> str:
        """One line for the log: never a position."""
        return f"{self.name}: {len(self):,} photos"


def collate_photos(samples: list[PhotoSample]) -> PhotoBatch:
    """Stack B samples of one size to a batch."""
    images, latlng_deg, positions, paths = zip(*samples, strict=True)
    return PhotoBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        latlng_deg=torch.from_numpy(np.stack(latlng_deg)).float(),
        ids=torch.tensor(positions, dtype=torch.int64),
        paths=paths,
    )


class PhotoDataModule(ImageDataModule):
    """Photos with positions, and the cells to tell them apart by.

    A subclass gives ``read_source``, and ``read_cells`` where cells are not read from files.

    Args:
        root: folder that tables and images are relative to.
        splits: "train", "val", "test" -> what the subclass needs to find it.
        cells: tables of one or several partitions (`mobilevision cells build`), coarse before
            fine, relative to the root; the last one is what is predicted.
        size_hw: height and width of the network's input in pixels.
        eval_size_hw: those of images in evaluation, for crops that the task takes of them; null
            is ``size_hw``.
        train_transform: null is ``RandomCrop(size_hw)``.
        val_transform: null is ``CenterCrop(eval_size_hw)``.
        **options: see `ImageDataModule`.

    Raises:
        DataError: an option is out of its range.
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
        self.splits = splits
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
                    f"{self.root}: which cells? Make them with `mobilevision cells build` and name "
                    "the file with the option data.cells."
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
        """Read the partitions.

        Raises:
            DataError: a file is absent or faulty.
        """
        return [read_cell_table(self.root / path) for path in self.cells]

    def read_source(self, split: str) -> PhotoSource:
        """Read which photos "train", "val" or "test" has; none is opened.

        Raises:
            DataError: a file is absent or faulty.
        """
        raise NotImplementedError

    def read_dataset(self, split: str) -> PhotoDataset:
        """Read a split with its transform.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        require_split(self.root, self.splits, split)
        transform = self.train_transform if split == "train" else self.val_transform
        return PhotoDataset(self.read_source(split), transform, self.seed, self.on_error)


class PhotoTableModule(PhotoDataModule):
    """Photos that tables list (see `positions`): one for each split, with a folder of images.

    Args:
        root: folder that tables and images are relative to.
        train: the training table, csv or Parquet.
        val: the validation table.
        test: the test table, such as that of Im2GPS3k; null takes the validation split.
        images: folder of the images of training and validation, relative to the root.
        test_images: folder of those of the test table; null is ``images``.
        **options: see `PhotoDataModule`.

    Raises:
        DataError: an option is out of its range.
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
        splits = {"train": train, "val": val} | ({"test": test} if test else {})
        super().__init__(root, splits, **options)
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


_ORIENTATION = 0x0112


class ShardImage:
    """A photo in a shard; nothing is read until it is asked for.

    Args:
        path: the shard.
        offset: where the photo's bytes begin.
        length: how many they are.
        name: what messages call it.
    """

    def __init__(self, path: Path, offset: int, length: int, name: str) -> None:
        self.path = Path(f"{path}:{name}")
        self._place = path, offset, length
        self._bytes: bytes | None = None

    def _data(self) -> io.BytesIO:
        path, offset, length = self._place
        if self._bytes is None:
            try:
                with path.open("rb") as file:
                    self._bytes = os.pread(file.fileno(), length, offset)
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from error
        return io.BytesIO(self._bytes)

    def _decoded(self, use: Callable[[Image.Image], Any]) -> Any:
        try:
            with open_image(self._data(), str(self.path)) as image:
                return use(image)
        except DataError:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise DataError(
                f"{self.path}: broken image: {error}. Write the shard again."
            ) from error

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels, EXIF rotation applied, from the header alone."""

        def upright(image: Image.Image) -> tuple[int, int]:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)

        return self._decoded(upright)

    def read(self, reduce: int = 1) -> np.ndarray:
        """Decode it as `ImageFile.read` does: (ceil(H / reduce), ceil(W / reduce), 3) uint8."""

        def pixels(image: Image.Image) -> np.ndarray:
            if reduce > 1 and image.getexif().get(_ORIENTATION, 1) == 1:
                image.draft(None, (image.width // reduce, image.height // reduce))
            rgb = Image.fromarray(rgb_pixels(ImageOps.exif_transpose(image), str(self.path)))
            wanted = tuple(-(-side // reduce) for side in self.size_hw)
            return np.array(rgb if (rgb.height, rgb.width) == wanted else rgb.reduce(reduce))

        return self._decoded(pixels)


class ShardedPhotos:
    """The photos of shards as a `PhotoSource`.

    Args:
        index: where they are.
        name: what results call them.
    """

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
        at = self.index
        path = at.folder / at.shards[int(at.shard[index])]
        return ShardImage(path, int(at.offset[index]), int(at.length[index]), str(at.files[index]))


class ShardSampler(EpochSampler):
    """Shards in random order, photos in random order within a few shards at a time.

    Everything else is as in `EpochSampler`: the order depends on seed and epoch alone, each process
    takes every ``world_size``-th photo of it, and ``progress`` says where to go on.

    Args:
        shard: (N,) int64, rising: which shard each photo is in.
        window: shards that are mixed with each other, at least 1.
        seed: at least 0.
        progress: see `EpochSampler`.
        rank: this process; None asks torch.distributed.
        world_size: number of processes; None asks torch.distributed.
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
        """Positions (N,) int64 of all photos in the order of an epoch."""
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
        test: that of the test shards; null takes the validation split.
        window: training shards that are mixed with each other at a time.
        **options: see `PhotoDataModule`.

    Raises:
        DataError: an option is out of its range.
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
        splits = {"train": train, "val": val} | ({"test": test} if test else {})
        super().__init__(root, splits, **options)
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
            photos: ShardedPhotos = self.datasets["train"].source
            self.train_sampler = ShardSampler(
                photos.index.shard, self.window, self.seed, progress=self._progress
            )
