"""What is timed, as plain data, and how a process opens it. Free of torch."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Run = Callable[[np.ndarray], object]
"""Pictures (B, H, W, 3) uint8 RGB to whatever the answer is."""


class Opened(NamedTuple):
    """A network that is ready to run."""

    answer: Run
    """All of it, from pictures of any size; resize and suppression are part of it."""
    network: Run | None = None
    """The network alone, on pictures of its own size; None where it cannot be told apart."""


class Opening(NamedTuple):
    """What a process opens and runs."""

    opener: str
    """One of ``OPENERS``."""
    source: str
    """What it opens: mostly a file."""
    part: str = "answer"
    """Which field of ``Opened`` runs."""


def _checkpoint(source: str, threads: int) -> Opened:
    from .eager import open_checkpoint

    return open_checkpoint(source, threads)


def _peer(source: str, threads: int) -> Opened:
    from .peers import open_peer

    return open_peer(source, threads)


def open_side(self, source: str, threads: int) -> Opened:
        """Open it for so many threads."""
        ...


OPENERS = {"checkpoint": "eager", "file": "exported", "peer": "peers", "gemm": "gemm"}
"""What is opened -> the module of this folder that does it."""


def open_side(opening: Opening, threads: int) -> Run:
    """Open what is to be timed.

    Args:
        opening: What it is.
        threads: Threads that it may use.

    Raises:
        DataError: It cannot be opened.
        ValueError: It has no such part.
    """
    run = getattr(OPENERS[opening.opener](opening.source, threads), opening.part)
    if run is None:
        raise ValueError(f"{opening.source}: has no {opening.part} of its own")
    return run
