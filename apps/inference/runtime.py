"""The protocol of runtimes, a model's metadata, and the runtime of each kind of file. No torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...datasets.errors import DataError

PREFIX = "mobilevision."
"""Prefix of each entry in a file's metadata."""
METADATA_FORMAT = 1
_FORMAT_KEY = f"{PREFIX}format"

AS_THEY_ARE = "uint8 RGB images (batch, height, width, 3) of any size, as they are"
"""Preparation of images that the network takes as they are."""


def cropped(fraction: float | None) -> str:
    """Return the preparation of images whose central part is used; None is the whole."""
    if fraction is None:
        return AS_THEY_ARE
    return (
        f"the central {fraction:g} of each image in the shape of size_hw, uint8 RGB "
        "(batch, height, width, 3)"
    )


@dataclass(frozen=True)
class ModelMetadata:
    """Description of a model, all of it plain data.

    Attributes:
        job: The job: ``detection``, ``classification``, ``face_attributes``,
            ``face_embedding``, ``faces`` (both face jobs in one pass) or ``geolocation``.
        size_hw: Height and width of the network's input, in pixels.
        categories: Id -> name; the position is the class index. Empty if there are no classes.
        outputs: Name -> meaning of each output, in order.
        thresholds: Name -> minimum value that counts as present.
        preparation: How an image is prepared before it is given to the file.
        details: Further data of the job, such as the cells of geolocation.
        license: License of the weights.
        provenance: The source of the model and the program that wrote the file.
    """

    job: str
    size_hw: tuple[int, int]
    categories: dict[int, str]
    outputs: dict[str, str]
    thresholds: dict[str, float] = field(default_factory=dict)
    preparation: str = AS_THEY_ARE
    details: dict[str, Any] = field(default_factory=dict)
    license: str = "unknown"
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_strings(self) -> dict[str, str]:
        """Return the entries of a file's metadata: ``mobilevision.<attribute>`` -> JSON."""
        entries = {PREFIX + name: json.dumps(value) for name, value in asdict(self).items()}
        return {_FORMAT_KEY: str(METADATA_FORMAT), **entries}

    @classmethod
    def from_strings(cls, entries: Mapping[str, str], source: str) -> "ModelMetadata":
        """Read the entries of ``to_strings``.

        Args:
            entries: A file's metadata; other entries are ignored.
            source: The file, for messages.

        Raises:
            DataError: There are no such entries, or they are newer or damaged.
        """
        if _FORMAT_KEY not in entries:
            raise DataError(
                f"{source}: has no metadata: it was not written by `mobilevision export`, "
                "or another tool dropped its metadata. Export the checkpoint again."
            )
        if entries[_FORMAT_KEY] != str(METADATA_FORMAT):
            raise DataError(
                f"{source}: its metadata has format {entries[_FORMAT_KEY]}, this version reads "
                f"{METADATA_FORMAT}. Use the version that wrote it, or export the checkpoint again."
            )
        if (former := entries.get(f"{PREFIX}licence")) is not None:  # how files of before spell it
            entries = {f"{PREFIX}license": former, **entries}
        try:
            values = {each.name: json.loads(entries[PREFIX + each.name]) for each in fields(cls)}
            height, width = values.pop("size_hw")
            categories = {int(key): str(name) for key, name in values.pop("categories").items()}
            job = str(values.pop("job"))
            values["thresholds"] = {k: float(x) for k, x in values["thresholds"].items()}
            return cls(job, (int(height), int(width)), categories, **values)
        except Exception as error:  # damaged JSON may have any form
            raise DataError(
                f"{source}: its metadata is damaged ({error}). Export the checkpoint again."
            ) from error


class Runtime(Protocol):
    """A network that is ready to run."""

    @property
    def metadata(self) -> ModelMetadata:
        """The description of the model."""
        ...

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs that the metadata name, for (B, H, W, 3) uint8 RGB, B at least 1."""
        ...


def whole_install(purpose: str, error: ModuleNotFoundError) -> DataError:
    """Return the error of a purpose for which an install for inference alone lacks a package."""
    return DataError(f"{purpose} needs {error.name}: pip install mobilevision")


EXPORTED_SUFFIXES = (".onnx", ".pt2", ".xml", ".pte")
"""Suffixes of the files that ``mobilevision export`` writes and a runtime here opens."""


def is_exported(model: str | Path) -> bool:
    """Return whether a model has the suffix of an exported file.

    ``onnx:FILE`` does not count: that prefix stands for a face network of another project.
    """
    return Path(model).suffix in EXPORTED_SUFFIXES and not str(model).startswith("onnx:")


def open_runtime(path: str | Path, device: str = "auto", threads: int | None = None) -> Runtime:
    """Open an exported file with the runtime of its suffix; only its own libraries are imported.

    Args:
        path: A file that ``mobilevision export`` wrote.
        device: "auto" takes the best device that the runtime finds; other names are those of the
            runtime, such as "cpu".
        threads: Number of threads; None takes the runtime's default.

    Raises:
        DataError: There is no such file, device or runtime, or the file cannot be read or has no
            metadata.
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
    match path.suffix:
        case ".onnx":
            from .onnx import OnnxRuntime as Chosen
        case ".xml":
            from .openvino import OpenVinoRuntime as Chosen
        case ".pte":
            from .executorch import ExecutorchRuntime as Chosen
        case _:
            try:
                from .exported_program import ExportedProgramRuntime as Chosen
            except ModuleNotFoundError as error:
                raise whole_install(f"{path}: a program of torch.export", error) from error
    return Chosen(path, device, threads)
