"""The order of training: a function of seed and epoch alone, on any number of processes."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch.distributed
from torch.utils.data import DistributedSampler


class SampleKey(NamedTuple):
    """What the sampler asks of a data set: enough to draw the same augmentation anywhere."""

    position: int
    """Which image of the data set."""
    epoch: int
    """Counted from 0."""


class EpochSampler(DistributedSampler[SampleKey]):
    """Yields `SampleKey`s in an order that depends only on seed and epoch.

    Under distributed training each process takes every ``world_size``-th key of that order, which
    starts again at its end so that all get the same number. It is a `DistributedSampler` so that
    Lightning leaves it as it is: the wrapper that Lightning puts around other samplers shuffles a
    second time, and has no notion of an epoch that was begun elsewhere (`start`).

    Args:
        length: number of samples, all processes together.
        seed: at least 0.
        shuffle: False gives the order of the data set.
        epoch: asked whenever an iteration begins; None counts what `set_epoch` said last.
        rank: this process; None asks torch.distributed when an iteration begins.
        world_size: number of processes; None asks torch.distributed.

    Attributes:
        start: keys of this process to leave out in the next iteration, and only in that one: to
            resume in the middle of an epoch, the number of samples that it had taken.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        epoch: Callable[[], int] | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        # The parent's constructor wants the data set and a process group that is already there.
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.start = 0
        self._ask_epoch = epoch
        self._rank = rank
        self._world_size = world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[SampleKey]:
        """The keys of this process in the current epoch, from `start` on."""
        epoch = self.epoch if self._ask_epoch is None else self._ask_epoch()
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        rank, world_size = self._place()
        order = np.resize(order, len(self) * world_size)[rank::world_size]
        start, self.start = self.start, 0
        return iter([SampleKey(position, epoch) for position in order[start:].tolist()])

    def __len__(self) -> int:
        """Keys for each process in a whole epoch, whatever `start` says."""
        return math.ceil(self.length / self._place()[1])

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning; without effect where an ``epoch`` function was given."""
        self.epoch = epoch

    def _place(self) -> tuple[int, int]:
        rank, world_size = self._rank, self._world_size
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if world_size is None:
            world_size = torch.distributed.get_world_size() if together else 1
        if rank is None:
            rank = torch.distributed.get_rank() if together else 0
        return rank, world_size
