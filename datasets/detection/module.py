"""Data modules for detection, of datasets in COCO's and Pascal VOC's format."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from ..data_errors import OnError
from ..errors import DataError
from ..image_module import ImageDataModule, ImageDataset, given_splits, require_size, require_split
from ..images import ImageFile
from ..sampling import SampleKey
from ..transforms.detection import TILES, Mosaic, Objects, Resize, SSDAugment, Tile, Transform
from ..types import DetectionBatch, stack_targets
from .annotations import Annotations
from .coco import COCO_CATEGORIES, official_title
from .image_checks import drop_missing, fit_to_images, quarter_turn, turn_boxes
from .layout import Split, find_layout, read_split
from .voc import find_voc_split, read_voc


class Sample(NamedTuple):
    """One image, ready for the network; id and size of a mosaic are those of its first image."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    objects: Objects
    """Objects in its pixels."""
    image_id: int
    size_hw: tuple[int, int]
    """Height and width of the original image in pixels, EXIF rotation applied."""
    path: str
    """The file; all four of a mosaic, with " + " between them."""


class DetectionDataset(ImageDataset[Sample]):
    """Images with their objects.

    Args:
        annotations: the images and their objects.
        transform: makes the network's input.
        seed: see `ImageDataset`.
        on_error: see `ImageDataset`; an image of another size than declared cannot be read.
        mosaic: for training: joins an image with three others, in place of ``transform``.
        mosaic_epochs: number of epochs, from the first on, that have mosaics; None is all.
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: Transform,
        seed: int = 0,
        on_error: OnError = "raise",
        mosaic: Mosaic | None = None,
        mosaic_epochs: int | None = None,
    ) -> None:
        super().__init__(annotations.name, annotations.images.paths, seed, on_error)
        self.annotations = annotations
        self.transform = transform
        self.mosaic = mosaic
        self.mosaic_epochs = mosaic_epochs

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """Read an image or a mosaic; see `ImageDataset`."""
        _, epoch, position = rng_key = self.rng_key(key)
        in_time = self.mosaic_epochs is None or epoch < self.mosaic_epochs
        if self.mosaic is not None and in_time:
            rng = np.random.default_rng((*rng_key, TILES))
            if rng.random() < self.mosaic.p:
                return self._read_mosaic(position, self.mosaic, rng)
        return super().__getitem__(key)

    def read_sample(self, index: int, rng: np.random.Generator) -> Sample:
        """See `ImageDataset`."""
        return self._sample(index, partial(self.transform, rng=rng))

    def _read_mosaic(self, position: int, mosaic: Mosaic, rng: np.random.Generator) -> Sample:
        """Join the image at a position and three others, in tiles drawn at random."""
        size_hw = self.transform.size_hw
        tiles = [tuple(tile) for tile in rng.permutation(mosaic.divide(size_hw, rng)).tolist()]
        wanted = [position, *rng.integers(len(self), size=TILES - 1).tolist()]
        seeds = rng.integers(2**63, size=TILES).tolist()

        def fill(index: int, tile: Tile, seed: int) -> Sample:
            part = partial(mosaic.fill, tile, size_hw=size_hw, rng=np.random.default_rng(seed))
            return self._sample(index, part)

        parts = [
            self.first_readable(first, partial(fill, tile=tile, seed=seed))
            for first, tile, seed in zip(wanted, tiles, seeds, strict=True)
        ]
        pixels, objects = mosaic.join(
            tiles, [(part.image, part.objects) for part in parts], size_hw
        )
        paths = " + ".join(part.path for part in parts)
        return parts[0]._replace(image=pixels, objects=objects, path=paths)

    def _sample(
        self, index: int, draw: Callable[[ImageFile, Objects], tuple[np.ndarray, Objects]]
    ) -> Sample:
        """Call ``draw`` with an image and its objects, both upright."""
        images = self.annotations.images
        table = self.annotations.boxes_of(index)
        image = ImageFile(images.paths[index])
        declared_hw = (int(images.sizes_hw[index, 0]), int(images.sizes_hw[index, 1]))
        orientation = quarter_turn(image, declared_hw)
        boxes = table.xyxy
        if orientation is not None:
            boxes = turn_boxes(boxes, declared_hw, orientation)
        pixels, objects = draw(image, Objects(boxes, table.labels, table.crowd))
        return Sample(pixels, objects, int(images.ids[index]), image.size_hw, images.paths[index])

    @property
    def categories(self) -> dict[int, str]:
        """COCO category id -> name; the position is the class index."""
        return self.annotations.categories

    @property
    def ground_truth(self) -> dict[str, Any]:
        """See `Annotations`."""
        return self.annotations.ground_truth

    def summary(self) -> str:
        """One line for the log."""
        return self.annotations.summary()


def collate(samples: list[Sample]) -> DetectionBatch:
    """Stack B samples of one size to a batch."""
    images, objects, image_ids, sizes_hw, paths = zip(*samples, strict=True)
    columns = zip(*objects, strict=True)
    return DetectionBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        target=stack_targets(*(list(map(torch.from_numpy, column)) for column in columns)),
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
        sizes_hw=torch.tensor(sizes_hw, dtype=torch.int64),
        paths=paths,
    )


class DetectionDataModule(ImageDataModule):
    """Images with their objects; a subclass defines ``_read_split``.

    Args:
        root: folder of the dataset.
        splits: "train", "val", "test" -> what the subclass needs to find it; None for none.
        categories: id -> name of the classes, in class order; None takes those of the first split.
        size_hw: height and width of the network's input in pixels.
        train_transform: null is ``SSDAugment(size_hw)``.
        val_transform: null is ``Resize(size_hw)``.
        mosaic: joins training images with three others, in place of ``train_transform``.
        **options: see `ImageDataModule`.
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
        self.splits = given_splits(splits)
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
        """Read the annotations of "train", "val" or "test", not the images."""
        require_split(self.root, self.splits, split)
        if split not in self._read:
            self._read[split] = self._read_split(split)
        return self._read[split]

    def _read_split(self, split: str) -> Annotations:
        raise NotImplementedError

    def read_dataset(self, split: str) -> DetectionDataset:
        """See `ImageDataModule`; the files of the images must exist.

        The headers of evaluation images are read, too, because the ground truth must be right
        before the first of them is evaluated; training images are checked as they are read.
        """
        annotations = self.read_split(split)
        del self._read[split]
        if split != "train":
            fitted = fit_to_images(annotations)
            return DetectionDataset(fitted, self.val_transform, self.seed, self.on_error)
        return DetectionDataset(
            drop_missing(annotations), self.train_transform, self.seed, self.on_error,
            mosaic=self.mosaic, mosaic_epochs=self._mosaic_epochs(),
        )  # fmt: skip

    def _mosaic_epochs(self) -> int | None:
        """Return the number of epochs with mosaics; None is all, also without a trainer."""
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
    """A dataset in COCO's format.

    With nothing but a root, the layout is recognized (`LAYOUTS`: COCO 2017 and 2014, one file for
    each split, Roboflow). A split may be a list of parts, as the MobileNet paper trains on
    train2014 and on val2014 without the 8,059 "minival" images.

    Args:
        root: folder of the dataset.
        train: where the training split is; null looks for it.
        val: where the validation split is; null looks for it.
        test: where the test split is; null looks for it.
        categories: id -> name of the classes to use, in class order; null takes all that the
            annotation file declares.
        **options: see `DetectionDataModule`.
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


class VocDataModule(DetectionDataModule):
    """A dataset in Pascal VOC's format: an XML file for each image.

    Args:
        root: a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``; or one with
            several such (``VOC2007``, ``VOC2012``), whose images are joined; or one with a folder
            for each split that holds images and XML files side by side.
        train: name of the image set, or of the folder, to train on.
        val: the one to validate on; ``valid`` and ``validation`` stand in for ``val``.
        test: the one to test on; null uses the validation split.
        categories: id -> name of the classes to use, in class order; null takes those that occur in
            the training split, by name, and VOC's twenty for VOC itself.
        ignore_difficult: "difficult" objects are regions to ignore, not objects to detect.
        voc_classes: whether the classes are VOC's twenty; null uses them if every file names VOC
            as its source.
        **options: see `DetectionDataModule`.
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
        super().__init__(root, {"train": train, "val": val, "test": test}, categories, **options)
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
