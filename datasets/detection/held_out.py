"""Holding out a part of a dataset: by class, with near-duplicates on one side. Needs no torch."""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ..data_errors import OnError
from ..errors import DataError
from ..images import REDUCTIONS, ImageFile
from .annotations import Annotations

_SIDE = 8
HASH_BITS = 2 * _SIDE * _SIDE
NEAR_BITS = 20
"""Images whose hashes differ in so many of 128 bits or fewer are near-duplicates.

Stored anew at JPEG quality 30, at half the size, brighter by a fifth or without 2 % of their sides,
photographs differ from themselves in at most 22 bits, 9 of 10 in at most 15. Of 62,000 pairs of
different photographs of COCO none differs in less than 27.
"""
FRAME_BITS = 32
"""The same for neighbors by name, such as frames of a video; 1 of 9,000 other pairs is as near."""

_ENOUGH_PX = 64
_ROBOFLOW_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+$")
_LAST_NUMBER = re.compile(r"^(.*?)(\d{1,18})(\D*)$", re.DOTALL)


class Division(NamedTuple):
    """A dataset of M images in two parts."""

    held_out: np.ndarray
    """(M,) bool."""
    groups: np.ndarray
    """(M,) int64, the group of near-duplicates of each image."""
    absent: list[str]
    """Names of the classes of which no image is held out."""

    def summary(self) -> str:
        """One line for the log."""
        sizes = np.bincount(self.groups)
        several = sizes[sizes > 1]
        line = f"{int(self.held_out.sum()):,} of {len(self.groups):,} images held out"
        if several.size:
            line += (
                f"; {several.size:,} groups of near-duplicates ({int(several.sum()):,} images, the "
                f"largest has {int(several.max()):,}) stay on one side"
            )
        if self.absent:
            line += f"; none of them has {shorten(', '.join(self.absent), 200)}"
        return line


def divide(annotations: Annotations, fraction: float, seed: int) -> Division:
    """Choose about ``fraction`` of the images so that every class has that share of its images.

    Groups of near-duplicates (`near_duplicates`) stay together. Of each class that occurs in more
    than one group, at least one goes to either side, unless rarer classes leave no choice. The
    result depends on images and seed alone.

    Raises:
        DataError: the fraction is not between 0 and 1, an image cannot be read and the annotations'
            ``on_error`` is "raise", or one of the two parts would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"val_fraction={fraction} must lie between 0 and 1.")
    groups = near_duplicates(annotations.images.paths, annotations.faults.on_error)
    chosen = stratify(_classes_of_groups(annotations, groups), fraction, seed)
    held_out = chosen[groups]
    if not held_out.any() or held_out.all():
        raise DataError(
            f"{annotations.name}: cannot be divided by val_fraction={fraction:g}, since all images "
            "are near-duplicates or there are too few. Give other images for validation (data.val)."
        )
    labels = set(annotations.select(held_out).boxes.labels.tolist())
    names = enumerate(annotations.categories.values())
    return Division(held_out, groups, [name for label, name in names if label not in labels])


def _classes_of_groups(annotations: Annotations, groups: np.ndarray) -> np.ndarray:
    """Return (G, C + 1) int64: each group's images with each class, in the last with none."""
    classes = len(annotations.categories)
    present = np.zeros((len(annotations), classes + 1), dtype=np.int64)
    present[annotations.owners, annotations.boxes.labels] = 1
    present[:, classes] = present.sum(axis=1) == 0
    counts = np.zeros((groups.max(initial=-1) + 1, classes + 1), dtype=np.int64)
    np.add.at(counts, groups, present)
    return counts


def stratify(counts: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose groups with about ``fraction`` of each class.

    Classes are served from the rarest on, as in iterative stratification (Sechidis, Tsoumakas and
    Vlahavas 2011, algorithm 1), but for two parts and whole groups.

    Args:
        counts: (G, C) int64, the number of images with each class in each group.
        fraction: in (0, 1).
        seed: of the order in which groups are considered.

    Returns:
        (G,) bool.
    """
    order = np.random.default_rng(seed).permutation(len(counts))
    occurs = (counts > 0).sum(axis=0)
    wanted = fraction * counts.sum(axis=0)
    chosen = np.zeros(len(counts), dtype=bool)
    decided = np.zeros(len(counts), dtype=bool)
    for label in np.argsort(occurs, kind="stable"):
        candidates = order[(counts[order, label] > 0) & ~decided[order]]
        taken = counts[chosen, label].sum()
        for group in candidates:
            size = counts[group, label]
            chosen[group] = taken + size / 2 <= wanted[label]
            taken += size * chosen[group]
        decided[candidates] = True
        sides = chosen[counts[:, label] > 0]
        if candidates.size and len(sides) > 1 and sides.all() == sides.any():
            smallest = candidates[np.argmin(counts[candidates, label])]
            chosen[smallest] = not chosen[smallest]
    return chosen


def near_duplicates(paths: Sequence[str] | np.ndarray, on_error: OnError = "raise") -> np.ndarray:
    """Group images that look alike, transitively: (N,) int64, groups numbered from 0.

    Alike are images whose hashes (`difference_hash`) are near, frames of one video (neighbors by
    the last number in the name, under a looser limit) and the copies that Roboflow makes of an
    image. An image that cannot be read is alone, or an error under ``on_error="raise"``.
    """
    hashes, readable = _hash_all(paths, on_error)
    links = [*_copies(paths), *_frames(paths, hashes, readable), *_alike(hashes, readable)]
    return _components(len(paths), links)


def difference_hash(image: ImageFile) -> np.ndarray:
    """Return the signs of brightness differences of an 8x8 grid: (16,) uint8, 128 bits.

    The image, in gray, is averaged to 9x9; half of the bits compare a cell with the one to the
    right, half with the one below (Krawetz, "Kind of Like That", hackerfactor.com 2013).

    Raises:
        DataError: the image cannot be read.
    """
    reduce = max(r for r in REDUCTIONS if r == 1 or min(image.size_hw) >= r * _ENOUGH_PX)
    gray = cv2.cvtColor(image.read(reduce), cv2.COLOR_RGB2GRAY)
    side = _SIDE + 1
    cells = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
    right = cells[:_SIDE, 1:] > cells[:_SIDE, :-1]
    below = cells[1:, :_SIDE] > cells[:-1, :_SIDE]
    return np.packbits(np.stack([right, below]))


def _hash_all(
    paths: Sequence[str] | np.ndarray, on_error: OnError
) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes (N, 16) uint8, and (N,) bool: which images could be read."""

    def read(path: str) -> np.ndarray | DataError:
        try:
            return difference_hash(ImageFile(path))
        except DataError as error:
            return error

    hashes = np.zeros((len(paths), HASH_BITS // 8), dtype=np.uint8)
    readable = np.ones(len(paths), dtype=bool)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        bar = tqdm(pool.map(read, paths), "near-duplicates", len(paths), unit=" images", delay=1)
        for row, result in enumerate(bar):
            if isinstance(result, DataError):
                if on_error == "raise":
                    raise result
                readable[row] = False
            else:
                hashes[row] = result
    return hashes, readable


def _distances(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the number of different bits of each pair of rows (..., 16) uint8."""
    return np.bitwise_count(hashes ^ others).sum(axis=-1, dtype=np.int64)


def _copies(paths: Sequence[str] | np.ndarray) -> Iterable[tuple[int, int]]:
    first: dict[str, int] = {}
    for row, path in enumerate(paths):
        stem, copies = _ROBOFLOW_COPY.subn("", os.path.splitext(path)[0])
        if copies:
            yield first.setdefault(stem, row), row


def _frames(
    paths: Sequence[str] | np.ndarray, hashes: np.ndarray, readable: np.ndarray
) -> Iterable[tuple[int, int]]:
    numbered: list[tuple[str, str, int, int]] = []
    for row in np.flatnonzero(readable).tolist():
        match = _LAST_NUMBER.match(os.path.splitext(paths[row])[0])
        if match:
            numbered.append((match[1], match[3], int(match[2]), row))
    numbered.sort()
    for one, two in pairwise(numbered):
        near = one[:2] == two[:2] and _distances(hashes[one[-1]], hashes[two[-1]]) <= FRAME_BITS
        if near:
            yield one[-1], two[-1]


def _alike(hashes: np.ndarray, readable: np.ndarray) -> Iterable[tuple[int, int]]:
    """Link every image to one of its group; each is compared with those that have no group yet."""
    unique, members = np.unique(hashes[readable], axis=0, return_inverse=True)
    words = unique.view(np.uint64)
    rows = np.flatnonzero(readable)
    first = rows[np.unique(members, return_index=True)[1]]
    yield from zip(first[members].tolist(), rows.tolist(), strict=True)
    waiting = np.arange(len(words))
    while waiting.size:
        frontier = [int(waiting[0])]
        waiting = waiting[1:]
        while frontier:
            one = frontier.pop()
            differing = np.bitwise_count(words[waiting] ^ words[one]).sum(axis=1, dtype=np.int64)
            near = differing <= NEAR_BITS
            yield from ((int(first[one]), int(first[two])) for two in waiting[near])
            frontier += waiting[near].tolist()
            waiting = waiting[~near]


def _components(count: int, links: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the connected component of each of ``count`` nodes, numbered from 0 by first node."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for link in links:
        one, two = map(root, link)
        parent[max(one, two)] = min(one, two)
    return np.unique([root(node) for node in range(count)], return_inverse=True)[1]


def names_below(annotations: Annotations, root: Path) -> list[str]:
    """Return the path of every image relative to a folder, with slashes."""
    paths = annotations.images.paths
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
