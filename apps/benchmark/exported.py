"""Exported files, timed as they are. Free of torch."""

from ..engines.runtime import open_runtime
from .opening import Opened


def open_side(source: str, threads: int) -> Opened:
    """See ``Opener``; the source is the file."""
    return Opened(open_runtime(source, "cpu", threads))
