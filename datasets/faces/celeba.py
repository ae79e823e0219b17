"""CelebA (Liu et al. 2015, "Deep Learning Face Attributes in the Wild") in its published layout.

    root/img_align_celeba/000001.jpg ...       202,599 aligned images of 178 x 218 px
    root/list_attr_celeba.txt                  40 attributes, -1 or 1
    root/list_eval_partition.txt               0 training, 1 validation, 2 test
    root/identity_CelebA.txt                   the person; need not be there
    root/list_landmarks_align_celeba.txt       five points in px; need not be there

The same as ``.csv`` with a heading (and without identities) is how Kaggle passes it on, its
images in ``img_align_celeba/img_align_celeba``. Subsets are accepted: no checksum is compared, and
the sizes of the partitions are reported beside the official ones.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..files import FileNames, check_files, read_text
from .labels import LANDMARK_NAMES, LabelTable, as_labels

PARTITIONS = {"train": 0, "val": 1, "test": 2}
OFFICIAL_SIZES = {"train": 162_770, "val": 19_867, "test": 19_962}
"""Images of the published partitions."""

_FOLDERS = ("img_align_celeba/img_align_celeba", "img_align_celeba")


class CelebA(NamedTuple):
    """The N images that all lists of a folder describe."""

    table: LabelTable
    partitions: np.ndarray
    """(N,) int8: values of `PARTITIONS`."""

    def split(self, split: str) -> LabelTable:
        """Return the images of "train", "val" or "test"; a `DataError` if there are none."""
        rows = self.partitions == PARTITIONS[split]
        if not rows.any():
            folder = Path(self.table.paths[0]).parent
            raise DataError(
                f"{folder}: no images in the {split} partition ({PARTITIONS[split]}); there are "
                f"{self.sizes()}."
            )
        return self.table.take(f"{self.table.name} {split}", rows)

    def sizes(self) -> str:
        """Return the size of each partition beside that of the published dataset."""
        return ", ".join(
            f"{int((self.partitions == number).sum()):,} {name} (published: "
            f"{OFFICIAL_SIZES[name]:,})"
            for name, number in PARTITIONS.items()
        )


def read_celeba(root: Path) -> CelebA:
    """Read the lists of a CelebA folder; no image is opened.

    Raises:
        DataError: A list is absent, has another form, or does not know an image of the attribute
            list.
    """
    attribute_file = _find(root, "list_attr_celeba")
    if attribute_file is None:
        raise DataError(
            f"{root}: there is no list_attr_celeba.txt or .csv. Give the folder that holds the "
            "lists of CelebA beside img_align_celeba."
        )
    names, files, values = _read_list(attribute_file)
    labels = as_labels(values, attribute_file, files, names)
    partition_file = _find(root, "list_eval_partition")
    if partition_file is None:
        raise DataError(f"{root}: there is no list_eval_partition.txt or .csv")
    partitions = _column_of(partition_file, files, 1, attribute_file)[:, 0]
    if not np.isin(partitions, list(PARTITIONS.values())).all():
        raise DataError(f"{partition_file}: partitions are 0, 1 and 2, nothing else")
    identity_file, landmark_file = (
        _find(root, name) for name in ("identity_CelebA", "list_landmarks_align_celeba")
    )
    identities = landmarks = None
    if identity_file is not None:
        identities = _column_of(identity_file, files, 1, attribute_file)[:, 0].astype(np.int64)
    if landmark_file is not None:
        points = _column_of(landmark_file, files, 2 * len(LANDMARK_NAMES), attribute_file)
        landmarks = points.astype(np.float32).reshape(-1, len(LANDMARK_NAMES), 2)
    folder = next((root / each for each in _FOLDERS if (root / each).is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: there is no folder img_align_celeba with the images")
    paths = FileNames(folder).locate_all(files, attribute_file)
    name = root.name or "CelebA"
    table = LabelTable(name, tuple(names), paths, labels, landmarks, identities)
    return CelebA(table, partitions.astype(np.int8))


def _find(root: Path, name: str) -> Path | None:
    candidates = (root / folder / f"{name}{suffix}" for folder in ("", "Anno", "Eval")
                  for suffix in (".txt", ".csv"))  # fmt: skip
    return next((path for path in candidates if path.is_file()), None)


def _read_list(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Return the columns' names (none without a heading), N files, values (N, K) float."""
    lines = [line for line in read_text(path, "list").splitlines() if line.strip()]
    if path.suffix == ".csv":
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        heading, rows, above = (rows[0][1:], rows[1:], 2) if rows else ([], [], 1)
    else:
        heading, rows, above = _split_text(lines)
    files = [row[0] for row in rows]
    check_files(path, files)
    count = len(heading) or len(rows[0]) - 1
    for number, row in enumerate(rows):
        if len(row) != count + 1:
            raise DataError(f"{path}, line {number + above}: {len(row) - 1} values, not {count}")
    try:
        values = np.array([row[1:] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}; wanted are numbers after the file's name") from error
    return heading, files, values


def _split_text(lines: Sequence[str]) -> tuple[list[str], list[list[str]], int]:
    """Split lines into heading, rows and the line number of the first row.

    Some lists begin with a count and a heading.
    """
    if lines and lines[0].strip().isdecimal():
        return lines[1].split() if len(lines) > 1 else [], [x.split() for x in lines[2:]], 3
    return [], [line.split() for line in lines], 1


def _column_of(path: Path, files: Sequence[str], count: int, wanted_by: Path) -> np.ndarray:
    """Return the ``count`` values of each file, (N, count), in the order of ``files``."""
    _, listed, values = _read_list(path)
    if values.shape[1] != count:
        raise DataError(f"{path}: {values.shape[1]} values for each image, not {count}")
    if listed == list(files):
        return values
    rows = {file: row for row, file in enumerate(listed)}
    absent = [file for file in files if file not in rows]
    if absent:
        raise DataError(
            f"{path}: does not know {absent[0]} ({len(absent):,} such images), which "
            f"{wanted_by.name} describes. Take lists that belong together."
        )
    return values[[rows[file] for file in files]]
