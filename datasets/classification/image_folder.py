"""Images in one folder for each class, or listed in a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import FileNames, read_csv
from .module import NO_LABEL, ClassificationDataModule, FileTable

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)

_MOST_DIGITS = 6
"""Limit of a class number: the names of more classes would fill the memory."""


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted.

    Raises:
        DataError: the folder does not exist or has no folders.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold a folder for each class")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: holds no folders; it should have one for each class")
    return names


def read_image_folder(folder: Path, classes: Sequence[str], name: str | None = None) -> FileTable:
    """List the images of a folder with a folder for each class, in order of class and name.

    Images in folders below a class's belong to it. Files without an image's suffix are ignored.
    ``classes`` are in class order; some may be absent. ``name`` is that of the data in results.

    Raises:
        DataError: there are folders of other classes, or no images.
    """
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise DataError(
            f"{folder}: the folders {', '.join(unknown[:5])} are none of the {len(classes)} "
            "classes. Remove them, or name all classes with the option data.categories."
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, each in enumerate(classes):
        found = find_images(folder / each)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return FileTable(name or folder.name, paths, np.array(labels, dtype=np.int64))


def find_images(folder: Path) -> list[str]:
    """Return the paths of all images in a folder and below, sorted; hidden files are ignored."""
    return sorted(
        str(path)
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def split_table(table: FileTable, fraction: float, seed: int) -> tuple[FileTable, FileTable]:
    """Split a table, class by class, into the rest and a part of about ``fraction`` in (0, 1).

    Of each class with more than one image the part gets at least one and never all. The same seed
    and images give the same parts.

    Raises:
        DataError: the fraction is out of its range.
    """
    if not 0 < fraction < 1:
        raise DataError(f"val_fraction={fraction} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(table.labels), dtype=bool)
    for label in np.unique(table.labels).tolist():
        rows = np.flatnonzero(table.labels == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held_out[rng.permutation(rows)[:count]] = True
    share = f"{fraction:g} by seed {seed}"
    titles = f"{table.name} without {share}", f"{table.name}, {share}"
    rest, part = (
        FileTable(
            title, [table.paths[row] for row in np.flatnonzero(rows).tolist()], table.labels[rows]
        )
        for title, rows in zip(titles, (~held_out, held_out), strict=True)
    )
    return rest, part


class ImageFolderModule(ClassificationDataModule):
    """A folder for each class: ``root/train/<class>/*.jpg`` and ``root/val/<class>/*.jpg``.

    Classes are the folders of the training split, sorted by name.

    Args:
        root: folder of the dataset.
        train: folder of the training split in it; "." if the classes lie in the root.
        val: that of the validation split; unused with ``val_fraction``.
        test: that of the test split; null uses the validation split.
        val_fraction: share of each class of the training folder to hold out for validation; null
            uses the folder ``val``.
        split_seed: seed of that choice.
        categories: key -> folder name of the classes, in class order; null takes all folders.
        **options: see `ClassificationDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str = "val",
        test: str | None = None,
        val_fraction: float | None = None,
        split_seed: int = 0,
        categories: dict[int, str] | None = None,
        **options: Any,
    ) -> None:
        splits = {"train": train, "val": train if val_fraction else val, "test": test}
        super().__init__(root, splits, categories, **options)
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def read_categories(self) -> dict[int, str]:
        """Take the folders of the training split."""
        return dict(enumerate(class_folders(self.root / self.splits["train"])))

    def read_table(self, split: str) -> FileTable:
        """See `ClassificationDataModule`."""
        folder = self.root / self.splits[split]
        name = f"{self.root.name} {split}"
        table = read_image_folder(folder, list(self.categories.values()), name)
        if self.val_fraction is None or split == "test":
            return table
        table = table._replace(name=self.root.name)
        rest, held_out = split_table(table, self.val_fraction, self.split_seed)
        return rest if split == "train" else held_out


def read_csv_table(
    path: Path, root: Path, classes: Sequence[str], name: str | None = None
) -> FileTable:
    """Read a table with the columns ``file``, relative to ``root``, and ``label``.

    Further columns are ignored. A label is the name of one of the classes, or its index if no class
    has that name; an empty one is not known. ``name`` is that of the data in results.

    Raises:
        DataError: the table cannot be read or lacks a column, or a row has an unknown label, no
            file or a file of another row.
    """
    index = {str(number): number for number in range(len(classes))}
    index |= {each: number for number, each in enumerate(classes)} | {"": NO_LABEL}
    paths: dict[str, int] = {}
    rows = _csv_rows(path)
    files = FileNames(root).locate_all((file for file, _ in rows), path)
    for number, ((file, label), located) in enumerate(zip(rows, files, strict=True), start=2):
        if label not in index:
            raise DataError(f"{path}, line {number}: {label!r} is none of {len(classes)} classes")
        if not file or located in paths:
            raise DataError(f"{path}, line {number}: {f'{file} twice' if file else 'no file'}")
        paths[located] = index[label]
    if not paths:
        raise DataError(f"{path}: no rows")
    return FileTable(name or path.stem, list(paths), np.array(list(paths.values()), np.int64))


def _csv_rows(path: Path) -> list[tuple[str, str]]:
    """Read file and label of each row, both stripped; a short row lacks its last cells."""
    heading, *rows = read_csv(path) or [[]]
    if not {"file", "label"} <= set(heading):
        raise DataError(f"{path}: has the columns {', '.join(heading)}, wanted are file and label")
    cells = (dict(zip(heading, row, strict=False)) for row in rows)
    return [(row.get("file", "").strip(), row.get("label", "").strip()) for row in cells]


class CsvModule(ClassificationDataModule):
    """Images listed by tables with the columns ``file,label``, one for each split.

    Classes are the labels of the training table: sorted by number if all are numbers from 0 on,
    else by name.

    Args:
        root: folder that tables and files are relative to.
        train: the training table.
        val: the validation table.
        test: the test table; null uses the validation split.
        categories: key -> name of the classes, in class order; null takes all labels.
        **options: see `ClassificationDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train.csv",
        val: str = "val.csv",
        test: str | None = None,
        categories: dict[int, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, categories, **options)

    def read_categories(self) -> dict[int, str]:
        """Take the labels of the training table."""
        path = self.root / self.splits["train"]
        labels = {label for _, label in _csv_rows(path)} - {""}
        if not labels:
            raise DataError(f"{path}: no labels")
        if all(label.isdecimal() for label in labels):
            longest = max(labels, key=lambda label: (len(label), label))
            if len(longest) > _MOST_DIGITS:
                raise DataError(
                    f"{path}: the label {longest[:20]} would be one of as many classes. Number the "
                    "classes from 0 on, or name them"
                )
            return {number: str(number) for number in range(max(map(int, labels)) + 1)}
        return dict(enumerate(sorted(labels)))

    def read_table(self, split: str) -> FileTable:
        """See `ClassificationDataModule`."""
        path = self.root / self.splits[split]
        name = f"{self.root.name} {split}"
        return read_csv_table(path, self.root, list(self.categories.values()), name)
