"""Training on the photos of tar shards: any photo by its number, shards read in long stretches."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError
from ..images import open_image, rgb_pixels
from ..sampling import EpochSampler, Progress
from .module import PhotoDataModule
from .shards import ShardIndex, read_index

_ORIENTATION = 0x0112


class ShardPicture:
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
                f"{self.path}: broken picture: {error}. Write the shard again."
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

    def picture(self, index: int) -> ShardPicture:
        """See `PhotoSource`."""
        at = self.index
        path = at.folder / at.shards[int(at.shard[index])]
        return ShardPicture(
            path, int(at.offset[index]), int(at.length[index]), str(at.files[index])
        )


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
