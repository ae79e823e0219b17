"""The order of training: a function of seed and epoch alone, on any number of processes."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, DistributedSampler


class SampleKey(NamedTuple):
    """What the sampler asks of a data set: enough to draw the same augmentation anywhere."""

    position: int
    """Which image of the data set."""
    epoch: int
    """Counted from 0."""


class Progress(NamedTuple):
    """How far training has come."""

    epoch: int
    """Counted from 0."""
    taken: int = 0
    """Samples of this epoch that this process has trained on already."""


class EpochSampler(DistributedSampler[SampleKey]):
    """Yields `SampleKey`s in an order that depends only on seed and epoch.

    Under distributed training each process takes every ``world_size``-th key of that order, which
    starts again at its end so that all get the same number. It is a `DistributedSampler` so that
    Lightning leaves it as it is: the wrapper that Lightning puts around other samplers shuffles a
    second time, and has no notion of an epoch that was begun elsewhere.

    Args:
        length: number of samples, all processes together.
        seed: at least 0.
        shuffle: False gives the order of the data set.
        progress: asked whenever an iteration begins; None is what `set_epoch` said last, from its
            beginning.
        rank: this process; None asks torch.distributed when an iteration begins.
        world_size: number of processes; None asks torch.distributed.
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
        # The parent's constructor wants the data set and a process group that is already there.
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self._progress = progress
        self._rank = rank
        self._world_size = world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[SampleKey]:
        """The keys of this process that are left of the current epoch."""
        epoch, taken = Progress(self.epoch) if self._progress is None else self._progress()
        rank, world_size = self._place()
        mine = np.resize(self.order(epoch), len(self) * world_size)[rank::world_size]
        # One by one: of millions of photos, keys would take more memory than all the rest.
        return (SampleKey(int(position), epoch) for position in mine[taken:])

    def order(self, epoch: int) -> np.ndarray:
        """Positions (N,) int64 of the whole data set in the order of an epoch."""
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        return order

    def __len__(self) -> int:
        """Keys for each process in a whole epoch."""
        return math.ceil(self.length / self._place()[1])

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning; without effect where a ``progress`` function was given."""
        self.epoch = epoch

    def _place(self) -> tuple[int, int]:
        rank, world_size = self._rank, self._world_size
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if world_size is None:
            world_size = torch.distributed.get_world_size() if together else 1
        if rank is None:
            rank = torch.distributed.get_rank() if together else 0
        return rank, world_size


class ResumableLoader(DataLoader):
    """A DataLoader that may be left in the middle of an epoch.

    Its sampler knows by itself where to go on, so there is no state to keep; having the methods
    tells Lightning that resuming is safe.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take back."""
