"""Run models: one protocol, and one class for each runtime. Free of torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from ...datasets.errors import DataError
from .metadata import ModelFacts


class Runtime(Protocol):
    """A network that is ready to run."""

    @property
    def facts(self) -> ModelFacts:
        """What the model says of itself."""
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs that the facts name, for (B, H, W, 3) uint8 RGB, B at least 1."""
        ...


EXPORTED_SUFFIXES = (".onnx", ".pt2", ".xml", ".pte")
"""Of the files that ``mobilevision export`` writes and something here runs."""


def runtime_class(suffix: str) -> Callable[[Path, str, int | None], Runtime]:
    """Return what runs files of a suffix; only its own libraries are imported.

    Args:
        suffix: One of ``EXPORTED_SUFFIXES``.

    Raises:
        ValueError: There is no such suffix.
    """
    match suffix:
        case ".onnx":
            from .onnx import OnnxRuntime as Chosen
        case ".xml":
            from .openvino import OpenVinoRuntime as Chosen
        case ".pte":
            from .executorch import ExecutorchRuntime as Chosen
        case ".pt2":
            from .exported_program import ExportedProgramRuntime as Chosen
        case _:
            raise ValueError(f"{suffix!r}: there are {', '.join(EXPORTED_SUFFIXES)}")
    return Chosen


def is_exported(model: str | Path) -> bool:
    """Whether a model is named like what ``mobilevision export`` writes.

    ``onnx:FILE`` is not: that word stands for a face network of another project.
    """
    return Path(model).suffix in EXPORTED_SUFFIXES and not str(model).startswith("onnx:")


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
    if path.suffix not in EXPORTED_SUFFIXES:
        raise DataError(
            f"{path}: exported files end in {', '.join(EXPORTED_SUFFIXES)}, not in {path.suffix!r}."
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file. `mobilevision export` writes one of a checkpoint.")
    if threads is not None and threads < 1:
        raise DataError(f"threads={threads}: must be at least 1")
    return runtime_class(path.suffix)(path, device, threads)
