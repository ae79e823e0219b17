"""Which formats there are, and how a network gets into a file of each."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from ...datasets.errors import DataError
from ..inference.metadata import ModelFacts
from .deployed import Deployable
from .quantising_options import Calibration

FORMATS = {
    "onnx": "onnx",
    "exported-program": "exported_program",
    "openvino": "openvino",
    "executorch": "executorch",
    "coreml": "coreml",
}
"""Name of a format -> the module of this folder whose ``FORMAT`` writes it."""
EXTRAS = {"openvino": "export,openvino", "executorch": "executorch"}
"""Name of a format -> extras of this package that it needs, where that is not ``export``."""
FIXED_SHAPES = ("executorch",)
"""Formats whose files take pictures of the network's size alone, and a fixed number of them."""
INT8_FORMATS = {"onnx": "quantised_onnx", "openvino": "quantised_openvino"}
"""The same for files in 8 bits."""


@dataclass(frozen=True)
class ExportOptions:
    """What is left open in a file.

    Attributes:
        batch: Pictures of each call; None takes any number, where the format allows it.
        any_picture: Whether pictures of any size are resized inside, where the format allows it;
            otherwise they have to have the network's size.
        int8: How the network gets into 8 bits; None leaves it in float32.
    """

    batch: int | None = None
    any_picture: bool = True
    int8: Calibration | None = None


def with_fixed_shapes(options: ExportOptions) -> ExportOptions:
    """Return the options for one of ``FIXED_SHAPES``: one picture if no number is given."""
    return replace(options, batch=options.batch or 1, any_picture=False)


class Format(Protocol):
    """A kind of file."""

    @property
    def suffix(self) -> str:
        """What the files, or folders, end in, such as ``.onnx``."""
        ...

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """Write a network with its facts, whole or not at all.

        Returns:
            What else is to be said of the file, such as the version of the format: plain data.

        Raises:
            DataError: The format cannot hold this network, or what writes it is not installed.
            OSError: The file cannot be written.
        """
        ...


@runtime_checkable
class OwnFacts(Protocol):
    """A format whose files take other pictures, or give other types, than the network."""

    def facts(self, deployable: Deployable) -> ModelFacts:
        """Return what a file says of itself."""
        ...


def open_format(name: str, int8: bool = False) -> Format:
    """Return what writes a format.

    Args:
        name: One of ``FORMATS``.
        int8: Whether its files are to be in 8 bits.

    Raises:
        DataError: There is none of this name, it is not written in 8 bits, or a package that it
            needs is not installed.
    """
    if name not in FORMATS:
        raise DataError(f"--format {name}: there are {', '.join(FORMATS)}.")
    if int8 and name not in INT8_FORMATS:
        raise DataError(f"--int8: is for {' and '.join(INT8_FORMATS)}, not for {name}.")
    try:
        module = import_module(f".{INT8_FORMATS[name] if int8 else FORMATS[name]}", __package__)
    except ImportError as error:
        extras = EXTRAS.get(name, "export")
        raise DataError(
            f"--format {name} needs the package {error.name}: pip install 'mobilevision[{extras}]'"
        ) from error
    return cast(Format, module.FORMAT)
