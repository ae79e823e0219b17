"""ILSVRC2012 ("ImageNet", 1,000 classes) in its official layout.

    root/ILSVRC2012_img_train/n01440764/n01440764_10026.JPEG     or root/train/...
    root/ILSVRC2012_img_val/ILSVRC2012_val_00000001.JPEG         or root/val/n01440764/...
    root/ILSVRC2012_devkit_t12/data/meta.mat
    root/ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt

Class k is the k-th WordNet id in alphabetical order, as in nearly all published weights. The
development kit numbers its classes in another order: its ground truth goes through ``meta.mat``.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import read_text
from .image_folder import class_folders, read_image_folder
from .matlab import read_mat
from .module import ClassificationDataModule, FileTable

TRAIN_FOLDERS = ("ILSVRC2012_img_train", "train")
VAL_FOLDERS = ("ILSVRC2012_img_val", "val")
DEVKIT = Path("ILSVRC2012_devkit_t12/data")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
NAME_FILES = ("synset_words.txt", "LOC_synset_mapping.txt")
"""Files of lines "n01440764 tench, Tinca tinca"; the second is Kaggle's."""


class ImageNetModule(ClassificationDataModule):
    """ImageNet, or any subset of its classes, as downloaded and unpacked.

    There is no download: image-net.org requires an account and agreement to its terms.
    Categories are named by ``synset_words.txt`` or ``LOC_synset_mapping.txt`` in the root, else by
    the development kit, else by WordNet id.

    Args:
        root: folder of the dataset.
        train: folder of the training split in it; null looks for it.
        val: folder of the validation split in it; null looks for it. It holds a folder for each
            class, or all images, with the development kit beside it.
        **options: see `ClassificationDataModule`.
    """

    def __init__(
        self, root: str | Path, train: str | None = None, val: str | None = None, **options: Any
    ) -> None:
        folder = Path(root)
        splits = {
            "train": train or _found(folder, TRAIN_FOLDERS),
            "val": val or _found(folder, VAL_FOLDERS),
        }
        super().__init__(root, splits, **options)
        self._wordnet_ids: list[str] = []

    @property
    def wordnet_ids(self) -> list[str]:
        """The WordNet id of each class, in class order, from the training folder."""
        if not self._wordnet_ids:
            self._wordnet_ids = class_folders(self.root / self.splits["train"])
        return self._wordnet_ids

    def read_categories(self) -> dict[int, str]:
        """Read the names by class index; repeated ones get their WordNet id."""
        names = _read_names(self.root)
        chosen = [names.get(each, each) for each in self.wordnet_ids]
        # "crane" is a bird and a machine.
        twice = {name for name, count in Counter(chosen).items() if count > 1}
        return {
            index: f"{name} ({each})" if name in twice else name
            for index, (name, each) in enumerate(zip(chosen, self.wordnet_ids, strict=True))
        }

    def read_table(self, split: str) -> FileTable:
        """See `ClassificationDataModule`."""
        folder, name = self.root / self.splits[split], f"ImageNet {split}"
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        if split == "val" and not any(path.is_dir() for path in folder.iterdir()):
            return _read_flat(folder, self.root / DEVKIT, self.wordnet_ids, name)
        return read_image_folder(folder, self.wordnet_ids, name)


def _found(root: Path, names: Sequence[str]) -> str:
    name = next((name for name in names if (root / name).is_dir()), None)
    if name is None:
        raise DataError(
            f"{root}: has no folder {' or '.join(names)}. Download ILSVRC2012 from "
            "https://image-net.org (an account is needed) and unpack it there; "
            "configs/classification_quickstart.yaml needs no download."
        )
    return name


def _read_flat(folder: Path, devkit: Path, wordnet_ids: Sequence[str], name: str) -> FileTable:
    """List validation images in one folder; line k of the ground truth is the k-th by name."""
    truth = devkit / GROUND_TRUTH
    if not truth.is_file():
        raise DataError(
            f"{folder}: its images are in no class folders, and {truth} is absent. Unpack "
            "ILSVRC2012_devkit_t12.tar.gz beside it."
        )
    lines = read_text(truth, "list of numbers").split()
    try:
        numbers = list(map(int, lines))
    except ValueError as error:
        raise DataError(f"{truth}: wanted is a number on each line ({error})") from error
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() == ".jpeg")
    if not numbers or len(paths) != len(numbers):
        raise DataError(
            f"{folder}: {len(paths):,} images, and {truth} has {len(numbers):,} lines. Restore "
            "the missing images."
        )
    known = {number: each for number, each, _ in _read_synsets(devkit / "meta.mat")}
    index = {each: label for label, each in enumerate(wordnet_ids)}
    try:
        labels = [index[known[number]] for number in numbers]
    except KeyError as error:
        raise DataError(f"{truth}: class {error} has no training folder") from error
    return FileTable(name, paths, np.array(labels, dtype=np.int64))


def _read_synsets(path: Path) -> list[tuple[int, str, str]]:
    """Read (number in the development kit, WordNet id, names) of each synset."""
    (synsets,) = read_mat(path, "synsets")
    try:
        columns = [synsets[name] for name in ("ILSVRC2012_ID", "WNID", "words")]
        return [
            (int(number.item()), str(each), str(names))
            for number, each, names in zip(*columns, strict=True)
        ]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"{path}: not the synsets of ILSVRC2012 ({error})") from error


def _read_names(root: Path) -> dict[str, str]:
    for path in (root / name for name in NAME_FILES):
        if path.is_file():
            lines = read_text(path, "list of names").splitlines()
            parts = (line.partition(" ") for line in lines if line)
            return {each: _first(names) for each, _, names in parts}
    meta = root / DEVKIT / "meta.mat"
    if meta.is_file():
        return {each: _first(names) for _, each, names in _read_synsets(meta)}
    return {}


def _first(names: str) -> str:
    return names.partition(",")[0].strip()
