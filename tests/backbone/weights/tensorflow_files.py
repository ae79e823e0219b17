"""Small files of TensorFlow 1, written by the formats' own rules."""

import struct
from collections.abc import Iterable, Mapping
from os.path import commonprefix
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]

from mobilevision.backbone.weights.formats import TABLE_MAGIC

Table = Iterable[tuple[bytes, bytes]]


def add_constant(graph: GraphDef, name: str, values: np.ndarray) -> None:
    """Append a node that holds float32 or int32 numbers."""
    node = graph.node.add(name=name, op="Const")
    kind = {"float32": 1, "int32": 3}[values.dtype.name]
    node.attr["dtype"].type = kind
    tensor = node.attr["value"].tensor
    tensor.dtype = kind
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = values.tobytes()


def write_constants(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a graph of constants and nothing else."""
    graph = GraphDef()
    for name, values in arrays.items():
        add_constant(graph, name, values)
    path.write_bytes(graph.SerializeToString())
    return path


def varint(number: int) -> bytes:
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer's message: a number, or bytes of a known length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: Table) -> bytes:
    """Entries that leave out what a name shares with the one before, the restarts, a trailer."""
    content, last = b"", b""
    for key, value in entries:
        shared = len(commonprefix([key, last]))  # noqa: RUF071 (no paths, but any bytes)
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content, last = content + key[shared:] + value, key
    return content + struct.pack("<II", 0, 1) + b"\0" + bytes(4)


def table(entries: Table, per_block: int = 20) -> bytes:
    """Write a sorted table: data blocks, an empty meta-index, an index, a footer."""
    rows, content, index = sorted(entries), b"", []
    for start in range(0, len(rows), per_block):
        made = block(rows[start : start + per_block])
        handle = varint(len(content)) + varint(len(made) - 5)
        index.append((rows[start : start + per_block][-1][0], handle))
        content += made
    ends = b""
    for made in (block([]), block(index)):
        ends += varint(len(content)) + varint(len(made) - 5)
        content += made
    return content + ends.ljust(40, b"\0") + TABLE_MAGIC


def write_bundle(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a checkpoint of one data file; returns its ``.index``, at ``path`` with that suffix."""
    entries, data = [(b"", field(1, 1) + field(3, field(1, 1)))], b""
    for name, values in arrays.items():
        shape = b"".join(field(2, field(1, size)) for size in values.shape)
        kind = {"float32": 1, "int64": 9}[values.dtype.name]
        entry = field(1, kind) + field(2, shape)
        entry += field(4, len(data)) + field(5, values.nbytes)
        entries.append((name.encode(), entry))
        data += values.tobytes()
    index = path.with_name(f"{path.name}.index")
    index.write_bytes(table(entries))
    path.with_name(f"{path.name}.data-00000-of-00001").write_bytes(data)
    return index
