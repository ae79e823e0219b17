"""The data module of data sets in Pascal VOC's format."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .annotations import Annotations
from .module import DetectionDataModule
from .voc import find_voc_split, read_voc


class VocDataModule(DetectionDataModule):
    """A data set in Pascal VOC's format: an XML file for each picture.

    Args:
        root: a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``; or one with
            several such (``VOC2007``, ``VOC2012``), whose images are put together; or one with a
            folder for each split that holds pictures and XML files side by side.
        train: name of the image set, or of the folder, to train on.
        val: the one to validate on; ``valid`` and ``validation`` stand in for ``val``.
        test: the one to test on; null takes the validation split.
        categories: id -> name of the classes to use, in class order; null takes those that occur in
            the training split, by name, and VOC's twenty for VOC itself.
        ignore_difficult: "difficult" objects are regions to ignore, not objects to find.
        voc_classes: whether the classes are VOC's twenty; null takes them where every file says
            that it is of VOC itself.
        **options: see `DetectionDataModule`.

    Raises:
        DataError: there is no data, or it is faulty.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str = "val",
        test: str | None = None,
        categories: dict[int, str] | None = None,
        ignore_difficult: bool = True,
        voc_classes: bool | None = None,
        **options: Any,
    ) -> None:
        splits = {"train": train, "val": val} | ({"test": test} if test else {})
        super().__init__(root, splits, categories, **options)
        self.ignore_difficult = ignore_difficult
        self.voc_classes = voc_classes
        self._categories = self.categories
        names = ", ".join(self._categories.values())
        rank_zero_info("%s: %d classes (%s)", root, len(self._categories), names)

    def _read_split(self, split: str) -> Annotations:
        return read_voc(
            find_voc_split(self.root, self.splits[split]),
            self._categories,
            self.on_error,
            ignore_difficult=self.ignore_difficult,
            voc_classes=self.voc_classes,
        )
