"""Exported files, timed as they are. Free of torch."""

from ..inference.runtime import open_runtime
from .opening import Opened

MARK = "#"
"""Between a file and the precision in which it is run."""


def open_exported(source: str, threads: int) -> Opened:
    """Open an exported file; the source is the file, after a "#" the precision asked for.

    Without it a file runs as its runtime has it by itself.
    """
    path, _, precision = source.partition(MARK)
    device = f"cpu:{precision}" if precision else "cpu"
    return Opened(open_runtime(path, device, threads))
