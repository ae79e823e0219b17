"""Formats of weight files, and their tensors, used strictly: each once, each of the right shape."""

import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError, import_extra

FileFormat = Literal["npz", "tflite", "hdf5", "safetensors", "torch", "graph", "bundle"]

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
"""End of LevelDB's sorted tables, and so of the ``.index`` file of TensorFlow's checkpoints."""

LARGEST_NETWORK_BYTES = 256 * 2**20
"""More than a weight file may declare beyond its own size: the largest MobileNet has 27 MB."""

_SHOWN = 5
_GRAPH = re.compile(rb"\n[\x80-\xff]{0,4}[\x00-\x7f]\n[\x01-\x7f][\w./-]")  # its first node's name
_SIZE_IN_NAME = re.compile(r"_(\d{2,3})(?=_|\.|$)")


class FileTensors:
    """Named tensors of the file ``path`` that are taken out one by one; none may be left."""

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
        """Take a tensor out, as float32; ``shape`` is in the file's own order of axes.

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
        """Remove a tensor that has no use, if it is there."""
        self._left.pop(name, None)

    def drop_scope(self, start: str) -> int:
        """Remove all tensors whose names start so and that have no use; returns how many."""
        names = [name for name in self._left if name.startswith(start)]
        for name in names:
            del self._left[name]
        return len(names)

    def require_all_used(self) -> None:
        """Raise a WeightsError if a tensor is left: the file is then of another network."""
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
    """Return the format of a weight file, by its first bytes.

    Raises:
        WeightsError: No such file, or none of these kinds.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            file.seek(max(file.seek(0, 2) - len(TABLE_MAGIC), 0))
            end = file.read()
    except OSError as error:
        raise WeightsError(f"no weights at {path} ({error.strerror})") from error
    if start.startswith(b"PK\x03\x04"):
        names = [entry.filename for entry in _zip_entries(path, path)]
        return "torch" if any(name.endswith("data.pkl") for name in names) else "npz"
    signs: dict[FileFormat, bool] = {
        "tflite": start[4:8] == _MAGIC,
        "hdf5": start.startswith(b"\x89HDF\r\n\x1a\n"),
        "safetensors": start[8:9] == b"{",  # after the length of the JSON header, 8 bytes
        "torch": start.startswith(b"\x80\x02"),  # torch.save before PyTorch 1.6
        "bundle": end == TABLE_MAGIC,
        "graph": _GRAPH.match(start) is not None,
    }
    for kind, found in signs.items():
        if found:
            return kind
    if start.startswith(b"\x08\x01\x12"):
        raise WeightsError(
            f"{path}: a SavedModel; give the frozen graph, another .pb of its archive"
        )
    raise WeightsError(
        f"{path}: not a weight file that can be read: it is no .npz, .tflite, .h5, .safetensors, "
        ".pth, .ckpt, .pb or .index file, whatever it is called; download it again"
    )


def require_plausible_size(path: str | Path, declared: int, stored: int) -> None:
    """Refuse a file that unpacks to far more than it holds, before anything is unpacked.

    ``declared`` are the bytes that its content takes in memory, by its own table of contents,
    and ``stored`` those of the file itself.

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
    ``torch.save`` wrote none before PyTorch 1.6. Messages call it ``path``.

    Raises:
        WeightsError: See ``require_plausible_size``, or the archive is damaged.
    """
    if not zipfile.is_zipfile(file):
        return
    declared = sum(entry.file_size for entry in _zip_entries(file, path))
    if isinstance(file, Path):
        stored = file.stat().st_size
    else:
        stored = file.seek(0, 2)
        file.seek(0)
    require_plausible_size(path, declared, stored)


def _zip_entries(file: Path | IO[bytes], path: str | Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except Exception as error:  # zipfile raises many kinds for a damaged directory
        raise WeightsError(f"{path}: a damaged file ({error}); download it again") from error


def size_in_name(path: Path) -> tuple[int, int] | None:
    """Return the input size in a published name: mobilenet_v1_0.25_128.npz is 128x128."""
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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a ``.safetensors``, ``.pth`` or ``.bin`` file.

    Raises:
        WeightsError: No such file, a damaged one, one of another kind, or the package
            ``safetensors`` is not installed.
    """
    kind = file_format(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind != "torch":
        raise WeightsError(f"{path}: a {kind} file, and no state dict of PyTorch")
    content = load_torch_file(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(
            f"{path}: not a state dict (names and tensors); save model.state_dict() and nothing "
            "else"
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    purpose = f"{path}: reading .safetensors files"
    library = import_extra("safetensors.torch", "safetensors", purpose)
    try:
        return library.load_file(path)
    except Exception as error:  # SafetensorError, and what torch raises for an odd header
        raise WeightsError(
            f"{path}: a damaged .safetensors file ({error}); download it again"
        ) from error


_MAGIC = b"TFL3"  # at byte 4, see the schema's file_identifier
# What follows the scope in a name: ".../weights", ".../weights_quant/FakeQuantWithMinMaxVars",
# ".../depthwise_weights", ".../weights/read".
_SCOPE = re.compile(r"(?P<scope>.+?)/(?:depthwise_)?weights(?:[/_].*)?")
# Flatbuffers check nothing when a file is opened: damage shows where something is read.
_DAMAGE = (struct.error, ValueError, IndexError, TypeError, AttributeError, OverflowError)


class InputMetadata(NamedTuple):
    """Size and normalization of a network's input."""

    size_hw: tuple[int, int] | None
    """Height and width in pixels; None where the file does not state them."""
    pixel_mean: float
    """Subtracted from the uint8 pixels."""
    pixel_std: float
    """Then divided by."""


def read_tflite(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of a file's convolutions, named and laid out as in TF-slim.

    Weights stored in 8 bits, and their 32-bit biases, are dequantized to
    ``scale * (stored - zero_point)``, one scale for a tensor or one for each channel (Jacob et al.
    2018, arXiv 1712.05877, equation 1).

    Returns:
        float32 arrays: ``<scope>/weights`` (height, width, in, out) of a convolution,
        ``<scope>/depthwise_weights`` (height, width, channels, 1) of a depthwise one, and
        ``<scope>/bias`` (out,) of each; of a detector also ``anchors`` (A, 4), center y, center x,
        height, width as fractions of the image, called ``anchors_quantised`` where they are
        rounded to 8 bits.

    Raises:
        WeightsError: No such file, not a TensorFlow Lite file or a damaged one, one without named
            convolutions, or the package ``tflite`` is not installed.
    """
    arrays: dict[str, np.ndarray] = {}
    unpacked = 0
    with _opened(path) as (data, schema):
        for name, array in _named_arrays(schema, data):
            arrays[name] = array
            unpacked += array.nbytes  # many tensors may share one buffer of the file
            require_plausible_size("its tensors", unpacked, len(data))
    if not any(name.endswith("weights") for name in arrays):
        raise WeightsError(
            f"{path}: no convolution has TF-slim's names in this file; a model that was converted "
            "from Keras or compiled for an accelerator cannot be read"
        )
    return arrays


def read_tflite_input(path: Path) -> InputMetadata:
    """Return the size and the normalization of a file's input.

    An 8-bit input stands for ``scale * (pixel - zero_point)``. Of a float one the file has no
    normalization; TF-slim and the Object Detection API take ``pixel / 127.5 - 1``.

    Raises:
        WeightsError: as ``read_tflite``, or the input is no single RGB image.
    """
    with _opened(path) as (data, schema):
        graph = schema.Model.GetRootAsModel(data, 0).Subgraphs(0)
        tensor = graph.Tensors(graph.Inputs(0))
        shape = [int(size) for size in tensor.ShapeAsNumpy()]
        quantization = tensor.Quantization()
        stored = tensor.Type() == schema.TensorType.UINT8
        if stored and quantization is not None and quantization.ScaleLength() == 1:
            mean, std = float(quantization.ZeroPoint(0)), 1.0 / float(quantization.Scale(0))
        else:
            mean = std = 127.5
    if len(shape) != 4 or shape[3] != 3:
        raise WeightsError(f"{path}: its input has shape {shape} and is no RGB image")
    return InputMetadata((shape[1], shape[2]), mean, std)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Give the file's bytes and the package ``tflite``; errors inside name the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no weights at {path} ({error.strerror})") from error
    if data[4:8] != _MAGIC:
        raise WeightsError(f"{path}: not a TensorFlow Lite file; download it again")
    tflite = import_extra("tflite", "tflite", f"{path}: reading .tflite files")
    try:
        yield data, tflite
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise WeightsError(
            f"{path}: a damaged TensorFlow Lite file ({error}); download it again"
        ) from error


def _named_arrays(schema: Any, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    names = {
        schema.BuiltinOperator.CONV_2D: "weights",
        schema.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise_weights",
    }
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Newer files have the code in both fields, older ones in the one now deprecated.
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind not in names:
            continue
        inputs = operator.InputsAsNumpy().tolist()
        weights = graph.Tensors(inputs[1])
        match = _SCOPE.fullmatch(weights.Name().decode())
        if match is None:
            continue
        # TensorFlow puts a scope inside one of the same name where a network is called in it.
        scope = match["scope"].replace("MobilenetV1/MobilenetV1/", "MobilenetV1/")
        if len(inputs) < 3 or inputs[2] < 0:
            raise WeightsError(f"the convolution {scope} has no bias, so it was not folded")
        kernel = _dequantized(schema, model, weights)
        yield f"{scope}/{names[kind]}", kernel.transpose(1, 2, 3, 0)  # from OHWI, or 1HWC
        yield f"{scope}/bias", _dequantized(schema, model, graph.Tensors(inputs[2]))
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        if tensor.Name() == b"anchors":
            exact = tensor.Type() == schema.TensorType.FLOAT32
            yield ("anchors" if exact else "anchors_quantised"), _dequantized(schema, model, tensor)


def _dequantized(schema: Any, model: Any, tensor: Any) -> np.ndarray:
    """Return the values of a constant tensor as float32, in its own shape."""
    types = {
        schema.TensorType.FLOAT32: "<f4",
        schema.TensorType.UINT8: "u1",
        schema.TensorType.INT8: "i1",
        schema.TensorType.INT32: "<i4",
    }
    name = tensor.Name().decode()
    if tensor.Type() not in types:
        raise WeightsError(
            f"the tensor {name} is of the schema's type {tensor.Type()}; float32 and 8-bit "
            "weights can be read"
        )
    shape = tensor.ShapeAsNumpy()
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy().view(types[tensor.Type()]).reshape(shape)
    if tensor.Type() == schema.TensorType.FLOAT32:
        return stored.astype(np.float32)
    quantization = tensor.Quantization()
    if quantization is None or quantization.ScaleLength() == 0:
        raise WeightsError(f"the tensor {name} holds integers without a scale")
    scale, zero_point = quantization.ScaleAsNumpy(), quantization.ZeroPointAsNumpy()
    if len(scale) > 1:
        along = np.ones(len(shape), int)
        along[quantization.QuantizedDimension()] = -1
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    return ((stored.astype(np.int64) - zero_point) * scale).astype(np.float32)
