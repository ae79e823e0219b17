"""Stanford Dogs (Khosla et al. 2011): 120 breeds, 12,000 images to train on, 8,580 to test on.

    root/Images/n02085620-Chihuahua/n02085620_10074.jpg
    root/lists/train_list.mat, test_list.mat        or beside Images; or train.txt, test.txt

A text file has a line for each image, "n02085620-Chihuahua/n02085620_10074.jpg".

Most images are from the training split of ImageNet: a network trained on ImageNet has seen the test
images, and its figures here are too good.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import read_text
from .image_folder import class_folders
from .matlab import read_mat
from .module import ClassificationDataModule, FileTable

IMAGES = "Images"
ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"


class StanfordDogsModule(ClassificationDataModule):
    """Stanford Dogs by its official lists.

    There is no official validation split: validation and test both use the official test list.
    Classes are numbered as in the lists, which is the order of the folders' names.

    Args:
        root: folder with ``Images`` and the lists.
        **options: see `ClassificationDataModule`.
    """

    def __init__(self, root: str | Path, **options: Any) -> None:
        folder = Path(root)
        if not (folder / IMAGES).is_dir():
            raise DataError(
                f"{folder}: has no folder {IMAGES}. Unpack images.tar and lists.tar of {ADDRESS} "
                "there; configs/classification_quickstart.yaml needs no download."
            )
        splits = {"train": _find_list(folder, "train"), "val": _find_list(folder, "test")}
        super().__init__(root, splits, **options)
        self._folders = class_folders(folder / IMAGES)

    def read_categories(self) -> dict[int, str]:
        """Take the breeds from the folders' names."""
        return {index: _breed(name) for index, name in enumerate(self._folders)}

    def read_table(self, split: str) -> FileTable:
        """See `ClassificationDataModule`; the numbers of a list must be those of its folders."""
        path: Path = self.splits[split]
        files, numbers = _read_list(path)
        index = {name: label for label, name in enumerate(self._folders)}
        labels = [index.get(file.partition("/")[0], -1) for file in files]
        for file, label, number in zip(files, labels, numbers or labels, strict=True):
            if label < 0 or label != number:
                raise DataError(
                    f"{path}: {file} is listed as class {number + 1}, but its folder is "
                    f"{f'the number {label + 1}' if label >= 0 else 'absent'}. Unpack the whole of "
                    "images.tar, and nothing else into its folder."
                )
        if not files:
            raise DataError(f"{path}: lists no images. Unpack lists.tar of {ADDRESS} anew")
        paths = [str(self.root / IMAGES / file) for file in files]
        name = f"Stanford Dogs {'train' if split == 'train' else 'test'}"
        return FileTable(name, paths, np.array(labels, dtype=np.int64))


def _breed(folder: str) -> str:
    """Return the breed of a folder; a hyphen in the breed is kept."""
    return folder.partition("-")[2].replace("_", " ") or folder


def _find_list(root: Path, split: str) -> Path:
    names = [f"lists/{split}_list.mat", f"{split}_list.mat", f"lists/{split}.txt", f"{split}.txt"]
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        raise DataError(f"{root}: has none of {', '.join(names)}. Unpack lists.tar of {ADDRESS}")
    return path


def _read_list(path: Path) -> tuple[list[str], list[int]]:
    """Return files below ``Images``, and class numbers from 0, empty if the list has none."""
    if path.suffix == ".txt":
        lines = read_text(path, "list of images").splitlines()
        return [line.strip() for line in lines if line.strip()], []
    files, labels = read_mat(path, "file_list", "labels")
    texts = isinstance(files, list) and all(isinstance(file, str) for file in files)
    if not texts or not isinstance(labels, np.ndarray) or len(files) != len(labels):
        raise DataError(
            f"{path}: file_list and labels should be as many names and numbers. Unpack lists.tar "
            f"of {ADDRESS} anew"
        )
    return files, (labels.astype(np.int64) - 1).tolist()
