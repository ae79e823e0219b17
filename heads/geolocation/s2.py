"""Ids of S2 cells for millions of positions at once, in numpy.

S2 (s2geometry.io) projects the sphere onto six faces of a cube and numbers the cells of each along
a Hilbert curve; an id is 3 bits of face, 2 bits for each level down to 30 and a closing 1 bit. The
library ``s2geometry`` does one position at a call; these functions give the same ids, which
``tests/heads/geolocation/test_s2.py`` compares. Its geometry is used where cells are few.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from ...datasets.errors import DataError
from .geodesy import unit_vectors

MAX_LEVEL = 30
"""Level of the smallest cells, with sides of about a centimetre."""

_ONE = np.uint64(1)
# The Hilbert curve of S2: by orientation (bit 0: axes swapped, bit 1: inverted) and quadrant
# (i, j as two bits), which of the four comes when; and how the orientation changes there.
_POSITION_OF = ((0, 1, 3, 2), (0, 3, 1, 2), (2, 3, 1, 0), (2, 1, 3, 0))
_TURN_AT = (1, 0, 0, 3)
_BITS = 4
_TOKEN = re.compile(r"[0-9a-f]{1,16}", re.IGNORECASE)
_STEPS = 8  # of 4 bits each: 32, of which the first two are zero


@cache
def _steps() -> np.ndarray:
    """(1024,) int64: orientation, 4 bits of i, 4 bits of j -> 8 bits of position, orientation."""
    table = np.zeros(4 << 2 * _BITS, dtype=np.int64)
    for key in range(len(table)):
        orientation, i, j = key >> 2 * _BITS, (key >> _BITS) & 15, key & 15
        position = 0
        for bit in reversed(range(_BITS)):
            quadrant = ((i >> bit) & 1) << 1 | ((j >> bit) & 1)
            place = _POSITION_OF[orientation][quadrant]
            position = position << 2 | place
            orientation ^= _TURN_AT[place]
        table[key] = position << 2 | orientation
    return table


def leaf_ids(latlng_deg: np.ndarray) -> np.ndarray:
    """Ids (N,) uint64 of the smallest cells that positions (N, 2) in degrees lie in."""
    face, u, v = _face_uv(unit_vectors(latlng_deg))
    i, j = _grid(u), _grid(v)
    state = face & 1
    position = np.zeros(len(face), dtype=np.uint64)
    for step in reversed(range(_STEPS)):
        shift = step * _BITS
        key = state << 2 * _BITS | ((i >> shift) & 15) << _BITS | ((j >> shift) & 15)
        found = _steps()[key]
        state = found & 3
        position = position << np.uint64(2 * _BITS) | (found >> 2).astype(np.uint64)
    return face.astype(np.uint64) << np.uint64(61) | position << _ONE | _ONE


def _face_uv(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Face 0 to 5 of the cube, and where on it, each in [-1, 1]."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    a, b, c = np.abs(x), np.abs(y), np.abs(z)
    # With equal components the later axis wins, as in S2.
    axis = np.where(a > b, np.where(a > c, 0, 2), np.where(b > c, 1, 2))
    along = np.choose(axis, (x, y, z))
    negative = along < 0
    u = np.choose(axis, (y, -x, -x)) / along
    v = np.choose(axis, (z, z, -y)) / along
    # On the three faces behind, the two coordinates change places and signs.
    u_behind = np.choose(axis, (z, z, -y)) / along
    v_behind = np.choose(axis, (y, -x, -x)) / along
    return (
        (axis + 3 * negative).astype(np.int64),
        np.where(negative, u_behind, u),
        np.where(negative, v_behind, v),
    )


def _grid(u: np.ndarray) -> np.ndarray:
    """Coordinates in [-1, 1] as int64 in [0, 2^30), by S2's quadratic projection."""
    root = 0.5 * np.sqrt(1 + 3 * np.abs(u))
    s = np.where(u >= 0, root, 1 - root)
    size = 1 << MAX_LEVEL
    return np.clip(np.rint(size * s - 0.5), 0, size - 1).astype(np.int64)


def lowest_bits(ids: np.ndarray) -> np.ndarray:
    """The closing bit (N,) uint64 of ids (N,): it tells the level."""
    return ids & (~ids + _ONE)


def range_min(ids: np.ndarray) -> np.ndarray:
    """The first smallest cell in each of the cells (N,)."""
    return ids - (lowest_bits(ids) - _ONE)


def range_max(ids: np.ndarray) -> np.ndarray:
    """The last smallest cell in each of the cells (N,)."""
    return ids + (lowest_bits(ids) - _ONE)


def levels(ids: np.ndarray) -> np.ndarray:
    """Levels (N,) int64 of cells (N,) uint64, 0 to 30."""
    return MAX_LEVEL - np.round(np.log2(lowest_bits(ids).astype(np.float64))).astype(np.int64) // 2


def children(ids: np.ndarray) -> np.ndarray:
    """The four children (4 N,) of each of the cells (N,) of levels below 30, in order."""
    quarter = lowest_bits(ids) >> np.uint64(2)
    steps = np.arange(4, dtype=np.uint64) * np.uint64(2)
    first = ids - quarter * np.uint64(3)
    return (first[:, None] + quarter[:, None] * steps).ravel()


def face_ids() -> np.ndarray:
    """The six cells (6,) uint64 of level 0."""
    return (np.arange(6, dtype=np.uint64) << np.uint64(61)) | np.uint64(1 << 60)


def to_tokens(ids: np.ndarray) -> list[str]:
    """Tokens of cells (N,): sixteen hexadecimal digits without the zeros at the end."""
    return [f"{number:016x}".rstrip("0") for number in ids.tolist()]


def from_tokens(tokens: Iterable[str], what: str) -> np.ndarray:
    """Ids (N,) uint64 of tokens.

    Args:
        tokens: N of them.
        what: where they are from, for messages.

    Raises:
        DataError: one is no token of an S2 cell.
    """
    listed: Sequence[str] = list(tokens)
    numbers = [int(token.ljust(16, "0"), 16) if _TOKEN.fullmatch(token) else 0 for token in listed]
    ids = np.array(numbers, dtype=np.uint64)
    # The closing bit lies at an even place, and there are six faces.
    bad = (ids == 0) | (ids >> np.uint64(61) > 5) | (lowest_bits(ids) & _EVEN_BITS == 0)
    if bad.any():
        token = listed[int(np.flatnonzero(bad)[0])]
        raise DataError(f"{what}: {token!r} is no token of an S2 cell (hex_id)")
    return ids


_EVEN_BITS = np.uint64(0x1555555555555555)
