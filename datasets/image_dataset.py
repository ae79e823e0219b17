"""What the data sets of all jobs share: pictures by number, and what becomes of broken ones."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from .data_errors import OnError
from .errors import DataError
from .sampling import SampleKey

_Sample_co = TypeVar("_Sample_co", covariant=True)
_T = TypeVar("_T")


class ImageDataset(Dataset[_Sample_co]):
    """A subclass gives ``__getitem__``, which reads through `first_readable`.

    Args:
        name: what results call it, with its number of images.
        paths: N files, strings.
        seed: at least 0.
        on_error: what a picture that cannot be read leads to. "skip" hands out the next good one
            in its place, and `unreadable` counts.

    Raises:
        DataError: there are no pictures.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[str] | np.ndarray,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        if not len(paths):
            raise DataError(f"{name}: no images are left. Check the data set.")
        self.name = name
        self.paths = paths
        self.seed = seed
        self.on_error = on_error
        # Shared memory: workers are processes, and this is how the main one hears of their finds.
        self._unreadable = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def rng_key(self, key: SampleKey | int) -> tuple[int, int, int]:
        """Seed, epoch and position of a key, which augmentation depends on and on nothing else.

        A plain position stands for epoch 0.

        Raises:
            IndexError: there is no such position.
        """
        position, epoch = (key, 0) if isinstance(key, int) else key
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} in a data set of {len(self)} images")
        return self.seed, epoch, position % len(self)

    def first_readable(self, position: int, read: Callable[[int], _T]) -> _T:
        """What ``read`` makes of the image at a position, or under "skip" of the next good one.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        last_error = None
        for step in range(len(self)):
            candidate = (position + step) % len(self)
            try:
                return read(candidate)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self._unreadable[candidate] = True
                last_error = error
        raise DataError(f"{self.name}: none of the pictures can be read; the last: {last_error}")

    @property
    def unreadable(self) -> list[str]:
        """The files that could not be read so far, also by worker processes."""
        return [self.paths[int(index)] for index in self._unreadable.nonzero()]

    def summary(self) -> str:
        """One line for the log."""
        return self.name
