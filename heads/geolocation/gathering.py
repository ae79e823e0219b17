"""What processes collected photo by photo, brought together."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

N = TypeVar("N", bound=tuple)


def merge_by_id(parts: Sequence[N]) -> N:
    """Bring parts together.

    Args:
        parts: NamedTuples of arrays with photos first, ``ids`` (N,) among them; one at least.

    Returns:
        One of the same kind, sorted by id, each photo once: Lightning pads the last batch with
        duplicates under torch.distributed.
    """
    kind: Any = type(parts[0])
    together = kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    _, first = np.unique(together.ids, return_index=True)
    return kind(*(column[first] for column in together))


def all_gather(mine: Any) -> list[Any]:
    """What each process has, in the order of their ranks; call it on all of them."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
