"""Which formats there are, what is left open in their files, and how a network gets into one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...datasets.errors import DataError
from ..batch.inputs import find_files
from ..inference.runtime import ModelMetadata
from .export_module import Deployable

FIXED_SHAPES = ("executorch",)
"""Formats whose files take images of the network's size alone, and a fixed number of them."""
INT8_FORMATS = ("onnx", "openvino")
"""Formats that have files in int8."""
CALIBRATION_METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of an int8 network come from, and how much may be lost.

    Attributes:
        paths: Images as the network will meet them, prepared as the file's metadata says.
        method: One of ``CALIBRATION_METHODS``: the extremes that were seen, the range that keeps
            most information, or all but the rarest values.
        limit_db: Signal to noise that the network's answers must keep; layers stay in float32, the
            costliest first, until they do.

    Raises:
        DataError: There are no images, or no such method.
    """

    paths: tuple[Path, ...]
    method: str = "minmax"
    limit_db: float = 20.0

    def __post_init__(self) -> None:
        if not self.paths:
            raise DataError("--int8 needs images to calibrate on: --calibrate FOLDER")
        if self.method not in CALIBRATION_METHODS:
            raise DataError(
                f"--calibrate-method {self.method}: there are {', '.join(CALIBRATION_METHODS)}."
            )


def find_images(words: Sequence[str], count: int) -> tuple[Path, ...]:
    """Images that the words of a command line mean, evenly spread if there are more.

    Args:
        words: Files, folders and patterns.
        count: How many to take at most, at least 1.

    Raises:
        DataError: A word names nothing, or the number is less than 1.
    """
    if count < 1:
        raise DataError(f"--calibrate-count {count}: must be at least 1")
    files = [file.path for file in find_files(words) if not file.is_video]
    places = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return tuple(files[place] for place in places)


@dataclass(frozen=True)
class ExportOptions:
    """What is left open in a file.

    Attributes:
        batch: Images of each call; None takes any number, where the format allows it.
        any_image: Whether images of any size are resized inside, where the format allows it;
            otherwise they have to have the network's size.
        int8: How the network gets into int8; None leaves it in float32.
    """

    batch: int | None = None
    any_image: bool = True
    int8: Calibration | None = None


def with_fixed_shapes(options: ExportOptions) -> ExportOptions:
    """Return the options for one of ``FIXED_SHAPES``: one image if no number is given."""
    return replace(options, batch=options.batch or 1, any_image=False)


class Format(Protocol):
    """A kind of file."""

    @property
    def suffix(self) -> str:
        """What the files, or folders, end in, such as ``.onnx``."""
        ...

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """Write a network with its metadata, whole or not at all.

        Returns:
            What else is to be said of the file, such as the version of the format: plain data.

        Raises:
            DataError: The format cannot hold this network, or what writes it is not installed.
            OSError: The file cannot be written.
        """
        ...


@runtime_checkable
class OwnMetadata(Protocol):
    """A format whose files take other images, or give other types, than the network."""

    def metadata(self, deployable: Deployable) -> ModelMetadata:
        """Return what a file says of itself."""
        ...


def _onnx() -> Format:
    from .onnx import OnnxFormat

    return OnnxFormat()


def _exported_program() -> Format:
    from .exported_program import ExportedProgramFormat

    return ExportedProgramFormat()


def _openvino() -> Format:
    from .openvino import OpenVinoFormat

    return OpenVinoFormat()


def _executorch() -> Format:
    from .executorch import ExecutorchFormat

    return ExecutorchFormat()


def _coreml() -> Format:
    from .coreml import CoreMlFormat

    return CoreMlFormat()


FORMATS: dict[str, Callable[[], Format]] = {
    "onnx": _onnx,
    "exported-program": _exported_program,
    "openvino": _openvino,
    "executorch": _executorch,
    "coreml": _coreml,
}
"""Name of a format -> what makes its writer; the packages that it needs are imported only then."""
EXTRAS = {"openvino": "export,openvino", "executorch": "executorch"}
"""Name of a format -> extras of this package that it needs, where that is not ``export``."""


def open_format(name: str, int8: bool = False) -> Format:
    """Return what writes a format.

    Args:
        name: One of ``FORMATS``.
        int8: Whether its file is to be in int8.

    Raises:
        DataError: There is none of this name, it has no files in int8, or a package that it
            needs is not installed.
    """
    if name not in FORMATS:
        raise DataError(f"--format {name}: there are {', '.join(FORMATS)}.")
    if int8 and name not in INT8_FORMATS:
        raise DataError(f"--int8: is for {' and '.join(INT8_FORMATS)}, not for {name}.")
    try:
        return FORMATS[name]()
    except ImportError as error:
        extras = EXTRAS.get(name, "export")
        raise DataError(
            f"--format {name} needs the package {error.name}: pip install 'mobilevision[{extras}]'"
        ) from error
