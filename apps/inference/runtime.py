"""Run models: one protocol, and one class for each runtime. Free of torch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...datasets.errors import DataError

PREFIX = "mobilevision."
"""Before the name of each entry in a file's metadata."""
METADATA_FORMAT = 1
_FORMAT_KEY = f"{PREFIX}format"


AS_THEY_ARE = "uint8 RGB images (batch, height, width, 3) of any size, as they are"
"""Preparation of images where there is nothing to do."""


def cropped(fraction: float) -> str:
    """Preparation of images of which the central part is looked at."""
    return (
        f"the central {fraction:g} of each image in the shape of size_hw, uint8 RGB "
        "(batch, height, width, 3)"
    )


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is, plain data throughout.

    Attributes:
        job: What it does: ``detection``, ``classification``, ``face_attributes``,
            ``face_embedding``, ``faces`` (both face jobs in one pass) or ``geolocation``.
        size_hw: Height and width in pixels that the network works at.
        categories: Id -> name; the position is the class index. Empty where there are no classes.
        outputs: Name of each output in order -> what it holds.
        thresholds: Name -> the value from which on something is said to be there.
        preparation: What is to be done to an image before it is given to the file.
        details: What else users of the job need, such as the cells of geolocation.
        license: Of the weights.
        provenance: Where the model comes from and what wrote the file.
    """

    job: str
    size_hw: tuple[int, int]
    categories: dict[int, str]
    outputs: dict[str, str]
    thresholds: dict[str, float] = field(default_factory=dict)
    preparation: str = AS_THEY_ARE
    details: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_strings(self) -> dict[str, str]:
        """Return the entries of a file's metadata: ``mobilevision.<attribute>`` -> JSON."""
        entries = {PREFIX + name: json.dumps(value) for name, value in asdict(self).items()}
        return {_FORMAT_KEY: str(METADATA_FORMAT), **entries}

    @classmethod
    def from_strings(cls, entries: Mapping[str, str], source: str) -> "ModelMetadata":
        """Read them back.

        Args:
            entries: A file's metadata; entries of others are passed over.
            source: The file, for messages.

        Raises:
            DataError: The file has no such entries, or they are newer or damaged.
        """
        if _FORMAT_KEY not in entries:
            raise DataError(
                f"{source}: does not say what it is: it was not written by `mobilevision export`, "
                "or another tool dropped its metadata. Export the checkpoint again."
            )
        if entries[_FORMAT_KEY] != str(METADATA_FORMAT):
            raise DataError(
                f"{source}: its metadata has format {entries[_FORMAT_KEY]}, this version reads "
                f"{METADATA_FORMAT}. Use the version that wrote it, or export the checkpoint again."
            )
        try:
            values = {each.name: json.loads(entries[PREFIX + each.name]) for each in fields(cls)}
            height, width = values.pop("size_hw")
            categories = {int(key): str(name) for key, name in values.pop("categories").items()}
            job = str(values.pop("job"))
            return cls(job, (int(height), int(width)), categories, **values)
        except (
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise DataError(
                f"{source}: its metadata is damaged ({error}). Export the checkpoint again."
            ) from error


class Runtime(Protocol):
    """A network that is ready to run."""

    @property
    def metadata(self) -> ModelMetadata:
        """What the model says of itself."""
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs that the metadata name, for (B, H, W, 3) uint8 RGB, B at least 1."""
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
