"""What runs exported files: one protocol, one small class for each runtime. Free of torch."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ...datasets.errors import DataError
from ..export.facts import ModelFacts


class Runtime(Protocol):
    """An exported network that is ready to run."""

    @property
    def facts(self) -> ModelFacts:
        """What the file says of itself."""
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs that the facts name, for (B, H, W, 3) uint8 RGB, B at least 1."""
        ...


class OpenRuntime(Protocol):
    """What the module of a runtime offers as ``open_file``."""

    def __call__(self, path: Path, device: str, threads: int | None) -> Runtime:
        """Open a file; the arguments are those of ``open_runtime``."""
        ...


RUNTIMES = {
    ".onnx": "onnx_runtime",
    ".pt2": "exported_program_runtime",
    ".xml": "openvino_runtime",
    ".pte": "executorch_runtime",
}
"""Suffix of an exported file -> the module of this folder whose ``open_file`` runs it."""


def open_runtime(path: str | Path, device: str = "auto", threads: int | None = None) -> Runtime:
    """Open an exported file with the runtime that its suffix stands for.

    Args:
        path: What ``mobilevision export`` wrote.
        device: "auto" takes the best that the runtime finds; or what the runtime calls its devices,
            such as "cpu".
        threads: Threads of the runtime; None leaves it to it.

    Raises:
        DataError: There is no such file, device or runtime, or the file cannot be read or does not
            say what it is.
    """
    path = Path(path)
    if path.suffix not in RUNTIMES:
        raise DataError(
            f"{path}: exported files end in {', '.join(RUNTIMES)}, not in {path.suffix!r}."
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file. `mobilevision export` writes one of a checkpoint.")
    if threads is not None and threads < 1:
        raise DataError(f"threads={threads}: must be at least 1")
    module = import_module(f".{RUNTIMES[path.suffix]}", __package__)
    return cast(OpenRuntime, module.open_file)(path, device, threads)
