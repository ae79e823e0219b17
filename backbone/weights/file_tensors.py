"""The tensors of somebody's weight file, used strictly: each once, each of the right shape."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

import torch
from torch import Tensor

from ..errors import WeightsError

FileFormat = Literal["npz", "tflite", "hdf5", "safetensors", "torch"]

LARGEST_NETWORK_BYTES = 256 * 2**20
"""More than a weight file may declare beyond its own size: the largest MobileNet has 27 MB."""

_SHOWN = 5
_SIZE_IN_NAME = re.compile(r"_(\d{2,3})(?=_|\.|$)")


class FileTensors:
    """Named tensors that are taken out one by one; what is left at the end has no place.

    Args:
        path: The file they come from, for messages.
        tensors: Name -> tensor, names as in the file.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self._left = dict(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that was not taken yet.

        Raises:
            WeightsError: It is not there, or is a single number.
        """
        shape = tuple(self._tensor(name).shape)
        if not shape:
            raise WeightsError(f"{self.path}: {name} is a single number and no kernel")
        return shape

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """Take a tensor out, as float32.

        Args:
            name: Its name in the file.
            shape: What it has to be, in the file's own order of axes.

        Raises:
            WeightsError: It is not there, has another shape or values that are not finite.
        """
        stored = self._tensor(name)
        if tuple(stored.shape) != tuple(shape):
            raise WeightsError(
                f"{self.path}: {name} has shape {tuple(stored.shape)}, the network wants "
                f"{tuple(shape)}; does width_mult fit this file?"
            )
        tensor = stored.float()
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{self.path}: {name} has values that are not finite numbers; a training that "
                "diverged writes such files. Take an earlier one"
            )
        del self._left[name]
        return tensor

    def drop(self, name: str) -> None:
        """Take a tensor out that has no use, if it is there."""
        self._left.pop(name, None)

    def require_all_used(self) -> None:
        """Check that nothing is left.

        Raises:
            WeightsError: Something is: the file is of another network.
        """
        if self._left:
            names = sorted(self._left)
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise WeightsError(
                f"{self.path}: {len(names)} tensors have no place in this network: {shown}. The "
                "file is of another architecture, or was saved with more than the weights"
            )

    def _tensor(self, name: str) -> Tensor:
        if name not in self._left:
            raise WeightsError(
                f"{self.path}: {name} is missing; the file is of another network or not whole"
            )
        tensor = self._left[name]
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise WeightsError(f"{self.path}: {name} is no plain array of numbers")
        return tensor


def file_format(path: Path) -> FileFormat:
    """Tell by its first bytes what kind of file weights are in.

    Raises:
        WeightsError: No such file, or none of these kinds.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise WeightsError(f"no weights at {path} ({error.strerror})") from error
    if start[4:8] == b"TFL3":  # the flatbuffer schema's file_identifier
        return "tflite"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if start.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    if start[8:9] == b"{":  # after the length of the JSON header, 8 bytes
        return "safetensors"
    if start.startswith(b"\x80\x02"):  # torch.save before PyTorch 1.6
        return "torch"
    raise WeightsError(
        f"{path}: not a weight file that can be read: it is no .npz, .tflite, .h5, .safetensors, "
        ".pth or .ckpt file, whatever it is called; download it again"
    )


def require_plausible_size(path: str | Path, declared: int, stored: int) -> None:
    """Refuse a file that unpacks to far more than it holds, before anything is unpacked.

    Args:
        path: The file, for the message.
        declared: Bytes that its content takes in memory, by its own table of contents.
        stored: Bytes of the file itself.

    Raises:
        WeightsError: It declares more than both its own size and ``LARGEST_NETWORK_BYTES``.
    """
    if declared > max(stored, LARGEST_NETWORK_BYTES):
        raise WeightsError(
            f"{path}: {stored:,} bytes that unpack to {declared:,}, far more than any MobileNet; "
            "the file is damaged or made to exhaust the memory. Take another one"
        )


def require_plausible_zip(file: Path | IO[bytes], path: str | Path) -> None:
    """Check what a zip archive, such as an ``.npz`` file or a checkpoint, declares to hold.

    Reading an entry never gives more bytes than declared. A file that is no zip archive passes:
    ``torch.save`` wrote none before PyTorch 1.6.

    Args:
        file: The archive.
        path: What messages call it.

    Raises:
        WeightsError: see ``require_plausible_size``, or the archive is damaged.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises many kinds for a damaged directory
        raise WeightsError(f"{path}: a damaged file ({error}); download it again") from error
    stored = file.stat().st_size if isinstance(file, Path) else file.seek(0, 2)
    if not isinstance(file, Path):
        file.seek(0)
    require_plausible_size(path, sum(entry.file_size for entry in entries), stored)


def _zip_format(path: Path) -> FileFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises many kinds for a damaged directory
        raise WeightsError(f"{path}: a damaged file ({error}); download it again") from error
    return "torch" if any(name.endswith("data.pkl") for name in names) else "npz"


def size_in_name(path: Path) -> tuple[int, int] | None:
    """Return the input size that a published name says: mobilenet_v1_0.25_128.npz is 128x128."""
    sizes = [int(found) for found in _SIZE_IN_NAME.findall(path.name)]
    sizes = [size for size in sizes if size >= 32 and size % 4 == 0]
    return (sizes[-1], sizes[-1]) if sizes else None


def load_torch_file(path: Path) -> dict:
    """Return what ``torch.save`` wrote; nothing in it is run.

    Raises:
        WeightsError: It is absent or damaged, unpacks to far more than it holds, or holds something
            else than tensors and plain data.
    """
    require_plausible_zip(path, path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken file
        raise WeightsError(
            f"{path}: not a readable checkpoint of tensors and plain data ({error})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{path}: holds a {type(content).__name__} and not named tensors")
    return content
