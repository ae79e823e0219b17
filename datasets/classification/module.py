"""What the data modules for classification share."""

from pathlib import Path
from typing import Any

from ..image_module import ImageDataModule, require_size, require_split
from ..transforms.classification import CentreCrop, ClassificationTransform, RandomCrop
from .dataset import ClassificationDataset, PictureTable, check_labels, collate_classification


class ClassificationDataModule(ImageDataModule):
    """Pictures with one class each; a subclass gives ``read_table`` and ``read_categories``.

    Args:
        root: folder of the data set.
        splits: "train", "val", "test" -> what the subclass needs to find it.
        categories: key -> name of the classes, in class order; None asks ``read_categories``.
        size_hw: height and width of the network's input in pixels.
        train_transform: null is ``RandomCrop(size_hw)``.
        val_transform: null is ``CentreCrop(size_hw)``.
        **options: see `ImageDataModule`.

    Raises:
        DataError: an option is out of its range.
    """

    collate = staticmethod(collate_classification)

    def __init__(
        self,
        root: str | Path,
        splits: dict[str, Any],
        categories: dict[int, str] | None = None,
        *,
        size_hw: tuple[int, int] = (224, 224),
        train_transform: ClassificationTransform | None = None,
        val_transform: ClassificationTransform | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.splits = splits
        self._categories = categories
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or RandomCrop(self.size_hw)
        self.val_transform = val_transform or CentreCrop(self.size_hw)
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.size_hw)

    @property
    def categories(self) -> dict[int, str]:
        """Key -> name, known from construction; the position is the class index."""
        if self._categories is None:
            self._categories = self.read_categories()
        return self._categories

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.categories)

    def read_categories(self) -> dict[int, str]:
        """Ask the data what its classes are.

        Raises:
            DataError: that cannot be told.
        """
        raise NotImplementedError

    def read_table(self, split: str) -> PictureTable:
        """Read which pictures "train", "val" or "test" has; none is opened.

        Raises:
            DataError: a file is absent or faulty.
        """
        raise NotImplementedError

    def read_dataset(self, split: str) -> ClassificationDataset:
        """Read a split with its transform."""
        return self.dataset(split, self.train_transform if split == "train" else self.val_transform)

    def dataset(self, split: str, transform: ClassificationTransform) -> ClassificationDataset:
        """Read a split with any transform.

        Raises:
            DataError: there is no such split, or a file is absent or faulty.
        """
        require_split(self.root, self.splits, split)
        table = self.read_table(split)
        check_labels(table, self.num_classes)
        return ClassificationDataset(table, transform, self.seed, self.on_error)
