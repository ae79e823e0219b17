"""Pairs of faces for verification: LFW's list, and lists drawn like it. Needs no torch."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..files import read_text

FOLDS = 10


class Pairs(NamedTuple):
    """P pairs of faces."""

    first: np.ndarray
    """(P,) int64, position of a face."""
    second: np.ndarray
    """(P,) int64."""
    same: np.ndarray
    """(P,) bool, True where both are one person."""
    folds: np.ndarray
    """(P,) int64, from 0."""


def read_pairs(path: str | Path, files: Sequence[str]) -> Pairs:
    """Read a list in the form of LFW's ``pairs.txt``.

    The first line has the number of folds F and of pairs n; each fold has n lines of the same
    person (name, number, number) and n of different ones (name, number, name, number). A face is
    ``name/name_0001.jpg``, with any suffix. The parts are separated by tabs, and a name may hold
    spaces; in a line without a tab they are separated by spaces. ``files`` are the existing faces,
    relative to their folder.

    Raises:
        DataError: The list has another form, or names faces that are not there.
    """
    path = Path(path)
    lines = [_parts(line) for line in read_text(path, "list of pairs").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    folds, size = _heading(path, lines)
    known = {str(PurePosixPath(file).with_suffix("")): row for row, file in enumerate(files)}
    absent: list[str] = []
    rows = np.empty((folds * size * 2, 2), dtype=np.int64)
    same = np.arange(len(rows)) // size % 2 == 0
    for position, parts in enumerate(lines[1:]):
        for side, name in enumerate(_names(path, position + 2, parts, bool(same[position]))):
            rows[position, side] = known.get(name, -1)
            if name not in known:
                absent.append(name)
    if absent:
        raise DataError(
            f"{path}: {len(set(absent)):,} faces that it names are not there: "
            f"{', '.join(sorted(set(absent))[:5])}. Complete the folder, or check that the list "
            "belongs to it."
        )
    return Pairs(rows[:, 0], rows[:, 1], same, np.arange(len(rows)) // (2 * size))


def _parts(line: str) -> list[str]:
    if "\t" not in line.strip():
        return line.split()
    return [part.strip() for part in line.strip().split("\t")]


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10  # Python refuses numbers of thousands of digits


def _heading(path: Path, lines: Sequence[Sequence[str]]) -> tuple[int, int]:
    heading = lines[0] if lines else []
    if len(heading) not in (1, 2) or not all(map(_is_number, heading)):
        raise DataError(f"{path}: line 1 says how many folds and pairs, such as '10 300'")
    folds, size = (1, int(heading[0])) if len(heading) == 1 else map(int, heading)
    if folds < 1 or size < 1 or len(lines) - 1 != folds * size * 2:
        raise DataError(
            f"{path}: line 1 announces {folds} folds of 2 x {size} pairs, and {len(lines) - 1} "
            "lines follow. Take a complete list."
        )
    return folds, size


def _names(path: Path, line: int, parts: Sequence[str], same: bool) -> tuple[str, str]:
    numbers = parts[1::2] if len(parts) == 4 else parts[1:]
    fits = len(parts) == (3 if same else 4) and all(parts)
    if not fits or not all(map(_is_number, numbers)):
        kind = "'name number number'" if same else "'name number name number'"
        raise DataError(
            f"{path}, line {line}: {' '.join(parts)!r} is not {kind}; separate the parts by tabs "
            "where names hold spaces"
        )
    first, second = parts[0], parts[0] if same else parts[2]
    return f"{first}/{first}_{int(numbers[0]):04}", f"{second}/{second}_{int(numbers[1]):04}"


def make_pairs(identities: np.ndarray, per_fold: int, seed: int = 0, name: str = "faces") -> Pairs:
    """Draw pairs as LFW's were made: folds of different people, as many same as different pairs.

    Each fold has ``per_fold`` same pairs and as many different ones, or fewer if there are
    fewer. There are ten folds, or fewer if there are fewer than 20 people.

    Args:
        identities: (N,) int64, person index; -1 is not used.
        per_fold: At least 1.
        seed: Seed of the draw.
        name: Name of the faces in messages.

    Raises:
        DataError: There are not two folds of two people, or nobody has two images.
    """
    rng = np.random.default_rng(seed)
    people, counts = np.unique(identities[identities >= 0], return_counts=True)
    drawn = rng.permutation(len(people))
    # People with many images are dealt out first, so that no fold has too few.
    people = people[drawn[np.argsort(-counts[drawn], kind="stable")]]
    folds = min(FOLDS, len(people) // 2)
    if folds < 2 or per_fold < 1:
        raise DataError(
            f"{name}: {len(people)} known people and {per_fold} pairs in a fold; pairs need at "
            "least 4 people and 1 pair"
        )
    parts: list[Pairs] = []
    for fold in range(folds):
        rows = np.flatnonzero(np.isin(identities, people[fold::folds]))
        first, second = np.triu_indices(len(rows), k=1)
        same = identities[rows[first]] == identities[rows[second]]
        count = min(per_fold, int(same.sum()), int((~same).sum()))
        for kind in (True, False):
            chosen = rng.permutation(np.flatnonzero(same == kind))[:count]
            faces = rows[first[chosen]], rows[second[chosen]]
            parts.append(Pairs(*faces, same[chosen], np.full(count, fold)))
    pairs = Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if not pairs.same.any():
        raise DataError(
            f"{name}: no person has two images (of these people), so no pair shows one person"
        )
    return pairs
