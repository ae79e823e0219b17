"""ExecuTorch files in ExecuTorch's own runtime, which also runs on phones."""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from .runtime import PREFIX, ModelMetadata

_HEADER = struct.Struct("<4x4s4s4xQQQ")
"""Two magic numbers, size of the program, offset and size of the weights, all in bytes."""


class ExecutorchRuntime:
    """A file that ``mobilevision export --format executorch`` wrote; see ``open_runtime``.

    The file takes a fixed number of images: more are run in several batches, the last of which is
    padded with black images.

    Args:
        path: The file.
        device: "auto" or "cpu".
        threads: Number of threads within an operation, for the whole process.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        if device not in {"auto", "cpu"}:
            raise DataError(f"device {device}: ExecuTorch has cpu here. Choose auto or cpu.")
        check_whole(path)
        library = _import_library(path)
        if threads is not None:
            library._unsafe_reset_threadpool(threads)
        try:
            self._program = library._load_program(
                str(path), program_verification=library.Verification.InternalConsistency
            )
            names = {self._program.get_method_name(i) for i in range(self._program.num_methods())}
            entries = {
                name: self._program.load_method(name)([])[0]
                for name in names
                if name.startswith(PREFIX)
            }
            self.metadata = ModelMetadata.from_strings(entries, str(path))
            self._method = self._program.load_method("forward")
            self._shape = tuple(self._method.method_meta().input_tensor_meta(0).sizes())
        except RuntimeError as error:
            raise DataError(
                f"{path}: ExecuTorch cannot open it: {error}. Export the checkpoint again."
            ) from error
        self._path = path
        self._names = list(self.metadata.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``.

        Raises:
            DataError: The images do not have the input size of the file.
        """
        batch, height, width, _ = self._shape
        if images.shape[1:] != self._shape[1:]:
            given = "x".join(str(side) for side in images.shape[1:])
            raise DataError(
                f"{self._path}: takes images of {height}x{width}x3, not {given}. Resize them "
                "before; --size of `mobilevision export` decides."
            )
        parts = [self._run(images[at : at + batch]) for at in range(0, len(images), batch)]
        return {
            name: np.concatenate(outputs)[: len(images)]
            for name, outputs in zip(self._names, zip(*parts, strict=True), strict=True)
        }

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        import torch

        batch = np.zeros(self._shape, np.uint8)
        batch[: len(images)] = images
        return [output.numpy() for output in self._method([torch.from_numpy(batch)])]


def check_whole(path: Path) -> None:
    """Check that a file is a whole program.

    ExecuTorch would abort the process, or read past the end of the file.

    Raises:
        DataError: It is no program, or its end is missing.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    marks, size = (b"", b""), 0
    if len(header) == _HEADER.size:
        *marks, program, begin, weights = _HEADER.unpack(header)
        size = max(program, begin + weights)
    if marks[0][:2] != b"ET" or marks[1] != b"eh00":
        raise DataError(f"{path}: is no program of ExecuTorch. Export the checkpoint again.")
    if path.stat().st_size < size:
        raise DataError(
            f"{path}: has {path.stat().st_size} of {size} bytes: its end is missing. Copy it "
            "again, or export the checkpoint again."
        )


def _import_library(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an interface that may change
            from executorch.extension.pybindings import portable_lib
    except ImportError as error:
        raise DataError(
            f"{path}: executorch, which runs it, is not installed: "
            "pip install 'mobilevision[executorch]'"
        ) from error
    return portable_lib
