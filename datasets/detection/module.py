"""Data modules for detection: what they share, and COCO-format data sets."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from ..errors import DataError
from ..image_module import ImageDataModule, require_size, require_split
from ..transforms.detection import Resize, SSDAugment, Transform
from ..transforms.mosaic import Mosaic
from .annotations import Annotations
from .coco import COCO_CATEGORIES, official_title
from .dataset import DetectionDataset, Sample, collate
from .image_checks import drop_missing, fit_to_pictures
from .layout import Split, find_layout, read_split

__all__ = [
    "CocoDataModule",
    "DetectionDataModule",
    "DetectionDataset",
    "Sample",
    "Split",
    "collate",
]


class DetectionDataModule(ImageDataModule):
    """What the data modules for detection share; a subclass says what the splits are.

    Args:
        root: folder of the data set.
        splits: "train", "val", "test" -> what the subclass needs to find it.
        categories: id -> name of the classes, in class order; None takes those of the first split.
        size_hw: height and width of the network's input in pixels.
        train_transform: null is ``SSDAugment(size_hw)``.
        val_transform: null is ``Resize(size_hw)``.
        mosaic: joins training pictures with three others, in place of ``train_transform``.
        **options: see `ImageDataModule`.

    Raises:
        DataError: an option is out of its range.
    """

    collate = staticmethod(collate)

    def __init__(
        self,
        root: str | Path,
        splits: dict[str, Any],
        categories: dict[int, str] | None = None,
        *,
        size_hw: tuple[int, int] = (300, 300),
        train_transform: Transform | None = None,
        val_transform: Transform | None = None,
        mosaic: Mosaic | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.splits = splits
        self._categories = categories
        self._read: dict[str, Annotations] = {}
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or SSDAugment(self.size_hw)
        self.val_transform = val_transform or Resize(self.size_hw)
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.size_hw)
        self.mosaic = mosaic

    @property
    def categories(self) -> dict[int, str]:
        """COCO category id -> name, known from construction; the position is the class index."""
        if self._categories is None:
            self._categories = self.read_split(next(iter(self.splits))).categories
        return self._categories

    @property
    def num_classes(self) -> int:
        """Number of classes, background not counted."""
        return len(self.categories)

    def read_split(self, split: str) -> Annotations:
        """Read the annotations of "train", "val" or "test"; pictures are not looked at.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        require_split(self.root, self.splits, split)
        if split not in self._read:
            self._read[split] = self._read_split(split)
        return self._read[split]

    def _read_split(self, split: str) -> Annotations:
        raise NotImplementedError

    def read_dataset(self, split: str) -> DetectionDataset:
        """Read the data set of "train", "val" or "test".

        Missing pictures come to light here. The headers of evaluation pictures are read, too,
        because the ground truth must be right before the first of them is evaluated; those of
        training pictures are checked as they are read.

        Raises:
            DataError: a file is absent or faulty.
        """
        annotations = self.read_split(split)
        del self._read[split]
        fitted = drop_missing(annotations) if split == "train" else fit_to_pictures(annotations)
        return self._dataset(split, fitted)

    def _dataset(self, split: str, annotations: Annotations) -> DetectionDataset:
        if split != "train":
            return DetectionDataset(annotations, self.val_transform, self.seed, self.on_error)
        return DetectionDataset(
            annotations,
            self.train_transform,
            self.seed,
            self.on_error,
            mosaic=self.mosaic,
            mosaic_epochs=self._mosaic_epochs(),
        )

    def _mosaic_epochs(self) -> int | None:
        """Number of epochs with mosaics; None is all: without a trainer there is no last epoch."""
        if self.mosaic is None or self.trainer is None or not self.mosaic.last_epochs:
            return None
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 0:
            raise DataError(
                "mosaic.last_epochs needs to know which epochs are the last: give the training a "
                "length with trainer.max_epochs, or set mosaic.last_epochs to 0."
            )
        return max(epochs - self.mosaic.last_epochs, 0)


class CocoDataModule(DetectionDataModule):
    """Any data set in COCO's format.

    With nothing but a root, the layout is recognised (`LAYOUTS`: COCO 2017 and 2014, one file for
    each split, Roboflow). A split may be a list of parts, as the MobileNet paper trains on
    train2014 and on val2014 without the 8,059 "minival" images.

    Args:
        root: folder of the data set.
        train: where the training split is; null looks for it.
        val: where the validation split is; null looks for it.
        test: where the test split is; null looks for it.
        categories: id -> name of the classes to use, in class order; null takes all that the
            annotation file declares.
        **options: see `DetectionDataModule`.

    Raises:
        DataError: there is no data, or an option is out of its range.
    """

    def __init__(
        self,
        root: str | Path,
        train: Split | list[Split] | None = None,
        val: Split | list[Split] | None = None,
        test: Split | list[Split] | None = None,
        categories: dict[int, str] | None = None,
        **options: Any,
    ) -> None:
        given = {"train": train, "val": val, "test": test}
        splits = {
            split: [parts] if isinstance(parts, Split) else list(parts)
            for split, parts in given.items()
            if parts
        }
        if not splits:
            layout, found = find_layout(Path(root))
            splits = {split: [part] for split, part in found.items()}
            rank_zero_info("%s: %s layout with %s", root, layout, ", ".join(found))
        first = Path(root) / next(iter(splits.values()))[0].annotations
        if categories is None and official_title(first):
            # COCO's own files take long to read, and their classes are known.
            categories = COCO_CATEGORIES
        super().__init__(root, splits, categories, **options)
        self._categories = self.categories

    def _read_split(self, split: str) -> Annotations:
        return read_split(self.root, self.splits[split], self._categories, self.on_error)
