"""The order of training: a function of seed and epoch alone, on any number of processes."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, DistributedSampler

from .errors import DataError


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


class PeopleSampler(EpochSampler):
    """Yields the keys of batches of P people with K faces each, as triplets need them.

    In each epoch the faces of each person are shuffled and dealt into groups of K, and P groups of
    different people make a batch. A face comes at most once in an epoch; those that are left over,
    fewer than K of a person or fewer than P people of a round, are others in each epoch. Each
    process gets whole batches, in the order of a single process, which starts again at its end.

    Args:
        identities: (N,) int, person of each sample, -1 where not known.
        people: P, at least 2.
        faces: K, at least 2.
        seed, progress, rank, world_size: as for `EpochSampler`.

    Attributes:
        left_out: (people, faces): the number of people with fewer than K faces, who are never
            drawn, and of faces of them or of nobody known.

    Raises:
        DataError: fewer than P people have K faces.
    """

    def __init__(
        self, identities: np.ndarray, people: int, faces: int, seed: int = 0, **options: Any
    ) -> None:
        order = np.argsort(identities, kind="stable")[np.count_nonzero(identities < 0) :]
        owned = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
        self._owned = [rows for rows in owned if len(rows) >= faces]
        used = sum(map(len, self._owned))
        self.left_out = (len(owned) - len(self._owned), len(identities) - used)
        self.people, self.faces = people, faces
        groups = np.array([len(rows) // faces for rows in self._owned], dtype=np.int64)
        rounds = range(groups.max(initial=0))
        self._batches = sum(int((groups > turn).sum()) // people for turn in rounds)
        if not self._batches:
            raise DataError(
                f"{len(self._owned):,} people have {faces} faces or more, and a batch needs "
                f"{people}. Make batch_size or faces_per_person smaller, or take data with more "
                "faces of each person"
            )
        super().__init__(self._batches * people * faces, seed, **options)

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions of all processes' batches in the order of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        rounds: list[list[np.ndarray]] = []
        for rows in self._owned:
            dealt = rng.permutation(rows)[: len(rows) // self.faces * self.faces]
            for turn, group in enumerate(dealt.reshape(-1, self.faces)):
                if turn == len(rounds):
                    rounds.append([])
                rounds[turn].append(group)
        batches = [
            chosen.reshape(-1, self.people * self.faces)
            for groups in rounds
            if len(chosen := rng.permutation(groups)[: len(groups) // self.people * self.people])
        ]
        shuffled = rng.permutation(np.concatenate(batches))
        # Processes take turns key by key, so the batches of one turn are interlaced.
        world_size = self._place()[1]
        turns = -(-len(shuffled) // world_size)
        whole = np.resize(shuffled, (turns, world_size, shuffled.shape[1]))
        return whole.transpose(0, 2, 1).reshape(-1)

    def __len__(self) -> int:
        return math.ceil(self._batches / self._place()[1]) * self.people * self.faces


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
