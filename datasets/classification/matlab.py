"""Reading MATLAB files of level 5 (MATLAB 5 to 7.2) strictly.

scipy reads them, too, but there a damaged file can crash the process. The format: "MAT-File
Format", The MathWorks, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_HEADER_BYTES = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15  # types of elements, as the next two
# fmt: off
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}
# fmt: on
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4  # classes of arrays
_NUMERIC = range(6, 16)
_MOST_BYTES = 2**28
"""Limit of an unpacked variable; the largest list read here has 2 MB."""

_Elements = Iterator[tuple[int, bytes]]


def read_mat(path: Path, *names: str) -> tuple[Any, ...]:
    """Read variables of a MATLAB file by their names.

    The content of each comes without its dimensions, column by column: (N,) numbers, a string,
    a list of the content of N cells, or a dict from field to such a list.

    Raises:
        DataError: the file is absent or broken, lacks a variable, or one is of another class.
    """
    try:
        content = path.read_bytes()
        order = _ORDERS.get(content[_HEADER_BYTES - 2 : _HEADER_BYTES])
        if order is None:
            raise ValueError("it has no header of level 5")
        found: dict[str, Any] = {}
        for matrix in _matrices(content[_HEADER_BYTES:], order):
            name, kind, count, parts = _opened(matrix, order)
            if name in names:
                found[name] = _value(kind, count, parts, order)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: not a MATLAB file that can be read ({error})") from error
    absent = [name for name in names if name not in found]
    if absent:
        raise DataError(f"{path}: has no variable {', '.join(absent)}")
    return tuple(found[name] for name in names)


def _elements(data: bytes, order: str) -> _Elements:
    """Yield type and content of consecutive elements."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:  # a small element: type, size and content in eight bytes
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        end = start + size
        if end > len(data) or (start == position + 4 and size > 4):
            raise ValueError("an element is cut short")
        yield kind, data[start:end]
        position = end if kind == _COMPRESSED else -(-end // 8) * 8


def _matrices(data: bytes, order: str) -> Iterator[bytes]:
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(content, _MOST_BYTES)
            if unpacker.unconsumed_tail:
                raise ValueError(f"a variable unpacks to more than {_MOST_BYTES:,} bytes")
            yield _next(_elements(unpacked, order), kind=_MATRIX)[1]
        elif kind == _MATRIX:
            yield content


def _next(parts: _Elements, kind: int | None = None) -> tuple[int, bytes]:
    element = next(parts, None)
    if element is None or kind not in (None, element[0]):
        raise ValueError("an array lacks a part")
    return element


def _opened(matrix: bytes, order: str) -> tuple[str, int, int, _Elements]:
    """Return name, class and number of elements of an array, and the parts with its content."""
    parts = _elements(matrix, order)
    flags = np.frombuffer(_next(parts, kind=6)[1], f"{order}u4")
    dimensions = np.frombuffer(_next(parts, kind=5)[1], f"{order}i4").tolist()
    if not len(flags) or not dimensions or min(dimensions) < 0:
        raise ValueError("an array has no class or no dimensions")
    name = _next(parts)[1].decode("ascii")
    return name, int(flags[0]) & 0xFF, math.prod(dimensions), parts


def _value(kind: int, count: int, parts: _Elements, order: str) -> Any:
    if kind == _CELL:
        return [_nested(parts, order) for _ in range(count)]
    if kind == _STRUCT:
        width = int.from_bytes(_next(parts, kind=5)[1], "little" if order == "<" else "big")
        text = _next(parts)[1].decode("ascii")
        if width < 1 or not text:
            raise ValueError("a struct has no fields")
        starts = range(0, len(text), width)
        fields = [text[start : start + width].partition("\0")[0] for start in starts]
        rows = [[_nested(parts, order) for _ in fields] for _ in range(count)]
        return {field: [row[column] for row in rows] for column, field in enumerate(fields)}
    if kind == _CHAR:
        stored, content = _next(parts)
        encoding = _TEXTS.get(stored, "")
        if not encoding:
            raise ValueError(f"text of the type {stored}")
        wide = encoding in ("utf-16", "utf-32")
        return content.decode(f"{encoding}-{'le' if order == '<' else 'be'}" if wide else encoding)
    if kind in _NUMERIC:
        stored, content = _next(parts)
        if stored not in _NUMBERS:
            raise ValueError(f"numbers of the type {stored}")
        numbers = np.frombuffer(content, f"{order}{_NUMBERS[stored]}")
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers in an array of {count}")
        return numbers
    raise ValueError(f"an array of the class {kind}")


def _nested(parts: _Elements, order: str) -> Any:
    matrix = _next(parts, kind=_MATRIX)[1]
    if not matrix:  # MATLAB writes [] so
        return np.empty(0)
    return _value(*_opened(matrix, order)[1:], order)
