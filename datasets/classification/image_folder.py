"""Images in one folder for each class, or listed in a table."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import FileNames
from .module import NO_LABEL, ClassificationDataModule, FileTable

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)

_MOST_DIGITS = 6
"""Of a class's number: a table of more classes would fill the memory with their names."""


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted: the classes.

    Raises:
        DataError: there is no such folder, or it has none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold a folder for each class")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: holds no folders; it should have one for each class")
    return names


def read_image_folder(folder: Path, classes: Sequence[str], name: str | None = None) -> FileTable:
    """Read the images of a folder with a folder for each class, in order of class and name.

    Images in folders below a class's belong to it. Files whose name does not end like a
    image's are left alone.

    Args:
        folder: holds the folders.
        classes: their names in class order; some may be absent.
        name: what results call the data; None takes the folder's.

    Raises:
        DataError: there are folders beside these classes, or no images.
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
        found = sorted(str(path) for path in (folder / each).rglob("*") if _is_image(path))
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return FileTable(name or folder.name, paths, np.array(labels, dtype=np.int64))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def split_table(table: FileTable, fraction: float, seed: int) -> tuple[FileTable, FileTable]:
    """Part a table in two, class by class, so that both have their share of each.

    Args:
        table: what to part.
        fraction: share of the second part in (0, 1); of each class with more than one image it
            gets at least one and never all.
        seed: at least 0; the same seed and images give the same parts.

    Returns:
        The rest, and the part of about ``fraction``.

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
    return (
        table.take(f"{table.name} without {share}", np.flatnonzero(~held_out)),
        table.take(f"{table.name}, {share}", np.flatnonzero(held_out)),
    )


class ImageFolderModule(ClassificationDataModule):
    """A folder for each class: ``root/train/<class>/*.jpg`` and ``root/val/<class>/*.jpg``.

    Classes are the folders of the training split, sorted by name.

    Args:
        root: folder of the data set.
        train: folder of the training split in it; "." where the classes lie in the root.
        val: that of the validation split; unused where ``val_fraction`` is given.
        test: that of the test split; null takes the validation split.
        val_fraction: holds out this share of each class of the training folder for validation;
            null takes the folder ``val``.
        split_seed: of that choice.
        categories: key -> folder name of the classes, in class order; null takes what is there.
        **options: see `ClassificationDataModule`.

    Raises:
        DataError: there is no data, or an option is out of its range.
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
        splits = {"train": train, "val": train if val_fraction else val}
        super().__init__(root, splits | ({"test": test} if test else {}), categories, **options)
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def read_categories(self) -> dict[int, str]:
        """The folders of the training split."""
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
    """Read a table with the columns ``file`` and ``label``; further ones are ignored.

    Args:
        path: the table. A label is a class's name, or its index where no class is called so; an
            empty one is not known.
        root: folder that the files are relative to.
        classes: names in class order.
        name: what results call the data; None takes the table's.

    Raises:
        DataError: the table cannot be read, lacks a column, or a row has an unknown label, no file
            or a file twice.
    """
    index = {str(number): number for number in range(len(classes))}
    index |= {each: number for number, each in enumerate(classes)} | {"": NO_LABEL}
    paths: dict[str, int] = {}
    rows = [{key: (row[key] or "").strip() for key in ("file", "label")} for row in _csv_rows(path)]
    files = FileNames(root).locate_all((row["file"] for row in rows), path)
    for number, (row, located) in enumerate(zip(rows, files, strict=True), start=2):
        file, label = row["file"], row["label"]
        if label not in index:
            raise DataError(f"{path}, line {number}: {label!r} is none of {len(classes)} classes")
        if not file or located in paths:
            raise DataError(f"{path}, line {number}: {f'{file} twice' if file else 'no file'}")
        paths[located] = index[label]
    if not paths:
        raise DataError(f"{path}: no rows")
    return FileTable(name or path.stem, list(paths), np.array(list(paths.values()), np.int64))


def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    if not {"file", "label"} <= set(columns):
        raise DataError(f"{path}: has the columns {', '.join(columns)}, wanted are file and label")
    return rows


class CsvModule(ClassificationDataModule):
    """Images that tables list: ``file,label``, a table for each split.

    Classes are the labels of the training table: sorted by number where all are numbers from 0 on,
    else by name.

    Args:
        root: folder that tables and files are relative to.
        train: the training table.
        val: the validation table.
        test: the test table; null takes the validation split.
        categories: key -> name of the classes, in class order; null takes what is there.
        **options: see `ClassificationDataModule`.

    Raises:
        DataError: there is no data, or it is faulty.
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
        splits = {"train": train, "val": val} | ({"test": test} if test else {})
        super().__init__(root, splits, categories, **options)

    def read_categories(self) -> dict[int, str]:
        """The labels of the training table."""
        path = self.root / self.splits["train"]
        labels = {(row["label"] or "").strip() for row in _csv_rows(path)} - {""}
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
