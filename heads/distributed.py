"""Gather what each process has collected, sample by sample."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ..datasets.errors import DataError

N = TypeVar("N", bound=tuple)


def gather_by_id(
    parts: Sequence[N], paths: dict[int, str], dataset: str
) -> tuple[N, dict[int, str]]:
    """Merge the batches of all processes; call it on all of them.

    Lightning pads the last batch with duplicates under torch.distributed. Of samples with the same
    id the first one of the lowest rank counts, on every process.

    Args:
        parts: NamedTuples of arrays with samples first, ``ids`` (N,) among them.
        paths: Id of a sample -> its file.
        dataset: Name for the error.

    Returns:
        One NamedTuple sorted by id, each sample once, and the paths of all processes.

    Raises:
        DataError: No process has a sample.
    """
    everyone = all_gather((list(parts), paths))
    merged_paths = {number: path for _, theirs in everyone for number, path in theirs.items()}
    together = [part for theirs, _ in everyone for part in theirs]
    if not together:
        raise DataError(f"{dataset}: no images were evaluated")
    return merge_by_id(together), merged_paths


def merge_by_id(parts: Sequence[N]) -> N:
    """Concatenate NamedTuples of arrays, sort by ``ids`` and keep the first sample of each id."""
    kind: Any = type(parts[0])
    together = kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    _, first = np.unique(together.ids, return_index=True)
    return kind(*(column[first] for column in together))


def all_gather(mine: Any) -> list[Any]:
    """Return what each process has, in the order of their ranks; call it on all of them."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
