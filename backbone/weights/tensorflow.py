"""Weights of TensorFlow 1: frozen graphs (``.pb``) and checkpoints (``.index`` beside ``.data-*``).

A frozen graph is a protocol buffer whose variables became constants. A checkpoint, in TensorFlow a
"tensor bundle", is a sorted table of LevelDB's format, which says of each variable in which of the
data files it lies, and where. Both name the variables as TF-slim does.
"""

import re
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import WeightsError
from .formats import TABLE_MAGIC, require_plausible_size

# What a MobileNet and the box predictors of the Object Detection API are made of. Other constants
# of a graph belong to its operators, other variables of a checkpoint to its training.
_WEIGHT = re.compile(
    r"(?:MobilenetV1|FeatureExtractor|BoxPredictor_\d+|WeightSharedConvolutionalBoxPredictor)/"
    r"(?:.+/)?(?:weights|depthwise_weights|biases|gamma|beta|moving_mean|moving_variance)"
)
_QUANTIZED = re.compile(r".+/(?:weights|act)_quant/.+")
_FLOAT = 1  # DT_FLOAT of types.proto
_FOOTER_BYTES = 48
_MOST_NAME_BYTES = 1000
_DAMAGE = (ValueError, IndexError, TypeError, struct.error, OverflowError)


class Variables(NamedTuple):
    """The weights of a file of TensorFlow 1."""

    arrays: dict[str, np.ndarray]
    """float32, by TF-slim's names, but for ``bias`` in place of ``biases``."""
    notes: tuple[str, ...]
    """Remarks on what was left out, one sentence each."""


def read_graph(path: Path) -> Variables:
    """Return the weights of a frozen graph, whether or not it was trained for 8 bits.

    Raises:
        WeightsError: No such file, a damaged one, or its variables are no float32 constants.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]

    arrays: dict[str, np.ndarray] = {}
    unpacked, data = 0, _read(path)
    try:
        nodes = GraphDef.FromString(data).node
        for node in nodes:
            if node.op != "Const" or not (_WEIGHT.fullmatch(node.name) or node.name == "anchors"):
                continue
            tensor = node.attr["value"].tensor
            unpacked += 4 * abs(prod(dim.size for dim in tensor.tensor_shape.dim))
            require_plausible_size(path, unpacked, len(data))
            arrays[_renamed(node.name)] = _constant(tensor)
        quantized = any(_QUANTIZED.fullmatch(node.name) for node in nodes)
    except (*_DAMAGE, DecodeError) as error:
        raise _damaged(path, "frozen graph", error) from error
    if not arrays:
        raise WeightsError(
            f"{path}: a graph without the weights of a MobileNetV1 as constants; give the frozen "
            "graph, frozen_inference_graph.pb or tflite_graph.pb of the archive"
        )
    return Variables(arrays, _notes(quantized))


def read_bundle(path: Path) -> Variables:
    """Return the weights of a checkpoint in TensorFlow's second format, of 2016 and later.

    The checksums inside are not compared, as they guard against damage on the way alone.

    Args:
        path: The ``.index`` file; its data files lie beside it.

    Raises:
        WeightsError: No such file, a damaged one, one of the first format, a compressed one, or a
            data file is missing.
    """
    arrays: dict[str, np.ndarray] = {}
    unpacked, data = 0, _read(path)
    try:
        table = dict(_table(data))
        header = dict(_fields(table.pop(b"")))
        _require_readable(path, header)
        entries = {key.decode(): dict(_fields(value)) for key, value in table.items()}
        weights = {name: entry for name, entry in entries.items() if _WEIGHT.fullmatch(name)}
        for name, entry in weights.items():
            arrays[_renamed(name)] = array = _stored(path, header.get(1, 0), name, entry)
            unpacked += array.nbytes  # many variables may share one place
            require_plausible_size(path, unpacked, len(data))
    except (*_DAMAGE, KeyError) as error:
        raise _damaged(path, "checkpoint", error) from error
    if not arrays:
        raise WeightsError(
            f"{path}: a checkpoint without the variables of a MobileNetV1 of TensorFlow 1; "
            "TensorFlow 2 and Keras name them otherwise, and theirs are not read"
        )
    others = len(entries) - len(weights)
    notes = (f"Variables of the training are left out: {others}.",) if others else ()
    return Variables(arrays, notes + _notes(any(map(_QUANTIZED.fullmatch, entries))))


def _require_readable(path: Path, header: dict[int, Any]) -> None:
    """Check a ``BundleHeaderProto``, or what stands in its place in the first format."""
    if isinstance(header.get(1), bytes):
        raise WeightsError(
            f"{path}: a checkpoint in TensorFlow's first format; save it again with "
            "tf.compat.v1.train.Saver"
        )
    if header.get(2, 0) != 0:
        raise WeightsError(f"{path}: a checkpoint of a big-endian machine, which is not read")


def _notes(quantized: bool) -> tuple[str, ...]:
    note = "Trained for 8 bits: the ranges of its activations are left out, it runs in float32."
    return (note,) if quantized else ()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no weights at {path} ({error.strerror})") from error


def _damaged(path: Path, kind: str, error: Exception) -> WeightsError:
    return WeightsError(f"{path}: a damaged {kind} of TensorFlow ({error}); download it again")


def _renamed(name: str) -> str:
    return re.sub("/biases$", "/bias", name)


def _constant(tensor: Any) -> np.ndarray:
    """Return the values of a ``TensorProto``."""
    if tensor.dtype != _FLOAT:
        raise ValueError(f"a weight has type {tensor.dtype}, and only float32 is read")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape).astype(np.float32)
    values = np.array(tensor.float_val, np.float32)
    missing = prod(shape) - len(values)
    if len(values) and missing > 0:  # equal numbers at the end are stored once
        values = np.pad(values, (0, missing), mode="edge")
    return values.reshape(shape)


# --- tensor bundles


def _stored(path: Path, shards: Any, name: str, entry: dict[int, Any]) -> np.ndarray:
    """Return the values of a ``BundleEntryProto``."""
    if entry.get(1) != _FLOAT or 7 in entry:
        raise WeightsError(f"{path}: {name} is not one array of float32, and is not read")
    shape = [
        int(dict(_fields(dim)).get(1, 0))
        for number, dim in _fields(entry.get(2, b""))
        if number == 2
    ]
    shard, offset, size = (int(entry.get(number, 0)) for number in (3, 4, 5))
    data = path.with_name(f"{path.name.removesuffix('.index')}.data-{shard:05d}-of-{shards:05d}")
    if not data.is_file():
        raise WeightsError(f"{path}: its data file {data.name} is not beside it; put it there")
    if offset + size > data.stat().st_size:
        raise WeightsError(f"{data}: ends before {name}; the file is not whole, download it again")
    with data.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(size), "<f4").reshape(shape).astype(np.float32)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a sorted table: data blocks, an index block, a footer."""
    if len(data) < _FOOTER_BYTES or not data.endswith(TABLE_MAGIC):
        raise ValueError("it does not end as a table does")
    at = len(data) - _FOOTER_BYTES
    handle = []
    for _ in range(4):  # offset and size of the meta-index, then those of the index
        number, at = _varint(data, at)
        handle.append(number)
    end = 0
    for _, value in _block(data, handle[2], handle[3]):
        offset, after = _varint(value, 0)
        size, _ = _varint(value, after)
        if offset < end:
            raise ValueError("its blocks overlap")
        end = offset + size
        yield from _block(data, offset, size)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block, whose keys omit what they share with the one before."""
    end = offset + size
    if end + 5 > len(data) or size < 4:  # its compression and its checksum follow
        raise ValueError("a block reaches past the end")
    if data[end] != 0:
        raise ValueError("its blocks are compressed, which TensorFlow's own writer never does")
    (restarts,) = struct.unpack_from("<I", data, end - 4)
    end -= 4 * (restarts + 1)
    key, at = b"", offset
    while at < end:
        shared, at = _varint(data, at)
        unshared, at = _varint(data, at)
        length, at = _varint(data, at)
        if shared > len(key) or at + unshared + length > end:
            raise ValueError("an entry reaches past its block")
        if shared + unshared > _MOST_NAME_BYTES:
            raise ValueError("a name without end")
        key = key[:shared] + data[at : at + unshared]
        at += unshared + length
        yield key, data[at - length : at]


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protocol buffer's message, undecoded."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, size = tag & 7, {1: 8, 5: 4}.get(tag & 7, 0)
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind not in (1, 5):
            raise ValueError(f"a field of the unknown kind {kind}")
        if at + size > len(message):
            raise ValueError("a field reaches past its message")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and the position after it."""
    number = shift = 0
    while shift < 64:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise ValueError("a number of more than 64 bits")
