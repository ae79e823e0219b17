"""Exported files behind the engines of the Python APIs. Free of torch, as far as the runtime is."""

from pathlib import Path

import numpy as np

from ...datasets.errors import DataError
from .protocol import Found
from .runtime import Runtime, open_runtime


class ExportedDetector:
    """An exported detector behind ``DetectionEngine``.

    Args:
        runtime: What runs the file.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.size_hw = runtime.facts.size_hw
        self.categories = runtime.facts.categories

    def __call__(self, images: np.ndarray) -> Found:
        """See ``DetectionEngine``."""
        found = self._runtime(images)
        return Found(found["boxes"], found["scores"], found["labels"])


def open_for(job: str, path: Path, device: str, size_hw: tuple[int, int] | None = None) -> Runtime:
    """Open an exported file for a job.

    Args:
        job: What it has to do.
        path: The file.
        device: As for ``open_runtime``.
        size_hw: What the user asks for; it was decided when the file was written.

    Raises:
        DataError: It cannot be opened, is for another job, or works at another size.
    """
    runtime = open_runtime(path, device)
    runtime.facts.expect(job, str(path))
    if size_hw is not None and tuple(size_hw) != runtime.facts.size_hw:
        height, width = runtime.facts.size_hw
        raise DataError(
            f"{path}: works at {height}x{width} px, which was decided when it was exported. Leave "
            "the size out, or export the checkpoint again with --size."
        )
    return runtime


def load_engine(path: Path, device: str, size_hw: tuple[int, int] | None) -> ExportedDetector:
    """Load an exported detector; see ``protocol.load_engine``."""
    return ExportedDetector(open_for("detection", path, device, size_hw))
