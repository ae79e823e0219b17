"""Which formats there are, and how a network gets into a file of each."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from ...datasets.errors import DataError
from .deployed import Deployable

FORMATS = {"onnx": "onnx"}
"""Name of a format -> the module of this folder whose ``FORMAT`` writes it."""


@dataclass(frozen=True)
class ExportOptions:
    """What is left open in a file.

    Attributes:
        batch: Pictures of each call; None takes any number, where the format allows it.
        any_picture: Whether pictures of any size are resized inside, where the format allows it;
            otherwise they have to have the network's size.
    """

    batch: int | None = None
    any_picture: bool = True


class Format(Protocol):
    """A kind of file."""

    @property
    def suffix(self) -> str:
        """What the files end in, such as ``.onnx``."""
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


def open_format(name: str) -> Format:
    """Return what writes a format.

    Raises:
        DataError: There is none of this name, or a package that it needs is not installed.
    """
    if name not in FORMATS:
        raise DataError(f"--format {name}: there are {', '.join(FORMATS)}.")
    try:
        module = import_module(f".{FORMATS[name]}", __package__)
    except ImportError as error:
        raise DataError(
            f"--format {name} needs the package {error.name}: pip install 'mobilevision[export]'"
        ) from error
    return cast(Format, module.FORMAT)
