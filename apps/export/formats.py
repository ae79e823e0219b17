"""The export formats and their options."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...datasets.errors import DataError
from ..batch.inputs import find_files
from ..inference.runtime import ModelMetadata
from .export_module import Deployable

FIXED_SHAPES = ("executorch",)
"""Formats whose files take only images of the network's size, and a fixed number of them."""
INT8_FORMATS = ("onnx", "openvino")
"""Formats that support int8."""
CALIBRATION_METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class Calibration:
    """The options of int8 calibration.

    Attributes:
        paths: Representative images.
        method: One of ``CALIBRATION_METHODS``: the extreme values, the range that keeps most
            information, or all but the rarest values.
        limit_db: Signal-to-noise ratio that the network's outputs have to keep; layers stay in
            float32, the costliest first, until they do.

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
            known = ", ".join(CALIBRATION_METHODS)
            raise DataError(f"--calibrate-method {self.method}: there are {known}.")


def find_images(words: Sequence[str], count: int) -> tuple[Path, ...]:
    """Find at most ``count`` calibration images, evenly spread over all that are found.

    Raises:
        DataError: There is no such file, or the number is less than 1.
    """
    if count < 1:
        raise DataError(f"--calibrate-count {count}: must be at least 1")
    files = [file.path for file in find_files(words) if file.kind == "image"]
    places = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return tuple(files[place] for place in places)


@dataclass(frozen=True)
class ExportOptions:
    """The options of an exported file.

    Attributes:
        batch: Images in a batch; None takes any number, if the format allows it.
        any_image: Whether the file resizes images of any size, if the format allows it; otherwise
            they have to have the network's size.
        int8: Calibration for int8; None leaves the network in float32.
    """

    batch: int | None = None
    any_image: bool = True
    int8: Calibration | None = None


def with_fixed_shapes(options: ExportOptions) -> ExportOptions:
    """Return the options for one of ``FIXED_SHAPES``; the default batch size is 1."""
    return replace(options, batch=options.batch or 1, any_image=False)


class Format(Protocol):
    """A file format."""

    @property
    def suffix(self) -> str:
        """Suffix of the files or folders, such as ``.onnx``."""
        ...

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """Write a network with its metadata, atomically.

        Returns:
            Further properties of the file, such as the version of the format, as plain data.

        Raises:
            DataError: The format does not support this network, or its package is not installed.
            OSError: The file cannot be written.
        """
        ...


@runtime_checkable
class OwnMetadata(Protocol):
    """A format whose files have other inputs or output types than the network."""

    def metadata(self, deployable: Deployable) -> ModelMetadata:
        """Return the metadata of a file."""
        ...


FORMATS = {
    "onnx": ("onnx", "OnnxFormat", "mobilevision"),
    "exported-program": ("exported_program", "ExportedProgramFormat", "mobilevision"),
    "openvino": ("openvino", "OpenVinoFormat", "mobilevision[openvino]"),
    "executorch": ("executorch", "ExecutorchFormat", "mobilevision[executorch]"),
    "coreml": ("coreml", "CoreMlFormat", "mobilevision[coreml]"),
}
"""Name of a format -> module and class, imported when used, and what pip installs for them."""


def open_format(name: str, int8: bool = False) -> Format:
    """Return the writer of one of ``FORMATS``, for a file in int8 or float32.

    Raises:
        DataError: There is no such format, it does not support int8, or a package that it needs is
            not installed.
    """
    if name not in FORMATS:
        raise DataError(f"--format {name}: there are {', '.join(FORMATS)}.")
    if int8 and name not in INT8_FORMATS:
        raise DataError(f"--int8: is for {' and '.join(INT8_FORMATS)}, not for {name}.")
    module, class_name, package = FORMATS[name]
    try:
        return getattr(import_module(f".{module}", __package__), class_name)()
    except ImportError as error:
        advice = f"pip install '{package}'"
        raise DataError(f"--format {name} needs the package {error.name}: {advice}") from error
