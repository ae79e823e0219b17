"""The order of training: a function of seed and epoch alone, on any number of processes."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, DistributedSampler


class SampleKey(NamedTuple):
    """Position in the dataset and epoch (from 0): enough to draw the same augmentation anywhere."""

    position: int
    epoch: int


class Progress(NamedTuple):
    """Epoch (from 0), and the samples of it that this process has trained on already."""

    epoch: int
    taken: int = 0


class EpochSampler(DistributedSampler[SampleKey]):
    """Yields `SampleKey`s in an order that depends only on seed and epoch.

    In distributed training each process takes every ``world_size``-th key of that order, which
    starts again at its end so that all get the same number. It is a `DistributedSampler` so that
    Lightning leaves it as it is: the wrapper that Lightning puts around other samplers shuffles a
    second time and cannot continue an epoch.

    Args:
        length: number of samples, all processes together.
        seed: at least 0.
        shuffle: False gives the order of the dataset.
        progress: called whenever an iteration begins; None starts the epoch of `set_epoch`.
        rank: this process; None asks torch.distributed when an iteration begins, as the next.
        world_size: number of processes.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        progress: Callable[[], Progress] | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        # The parent's constructor wants the dataset and a process group that is already there.
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self._progress = progress
        self._rank = rank
        self._world_size = world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[SampleKey]:
        """Yield the keys of this process that are left of the current epoch."""
        epoch, taken = Progress(self.epoch) if self._progress is None else self._progress()
        rank, world_size = self._place()
        mine = np.resize(self.order(epoch), len(self) * world_size)[rank::world_size]
        # Made one by one: the keys of millions of photos would take too much memory.
        return (SampleKey(int(position), epoch) for position in mine[taken:])

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions (N,) int64 of the whole dataset in the order of an epoch."""
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        return order

    def __len__(self) -> int:
        return math.ceil(self.length / self._place()[1])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, as Lightning does; no effect if there is a ``progress`` function."""
        self.epoch = epoch

    def _place(self) -> tuple[int, int]:
        distributed = torch.distributed
        together = distributed.is_available() and distributed.is_initialized()
        rank, world_size = (
            (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        )
        return (
            rank if self._rank is None else self._rank,
            world_size if self._world_size is None else self._world_size,
        )


class ResumableLoader(DataLoader):
    """A DataLoader that may be left in the middle of an epoch.

    Its sampler knows where to continue, so there is no state to keep; the methods tell Lightning
    that resuming is safe.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""
