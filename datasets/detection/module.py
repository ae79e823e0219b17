"""The data module for detection, of datasets in every format."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ..data_errors import OnError, Unlabeled
from ..errors import DataError
from ..files import write_atomically
from ..image_module import ImageDataModule, ImageDataset, require_size, require_split
from ..images import ImageFile
from ..sampling import SampleKey
from ..transforms.detection import TILES, Mosaic, Objects, Resize, SSDAugment, Tile, Transform
from ..types import DetectionBatch, stack_targets
from .annotations import Annotations
from .held_out import divide, names_below
from .image_checks import (
    drop_missing,
    fit_to_images,
    quarter_turn,
    turn_boxes,
    turn_landmarks,
)
from .layout import FormatName, ReadOptions, Split, named_layout

SPLIT_FILE = "split.json"
"""In a run's directory: the names of the images of both parts, where some were held out."""


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
        boxes, points = table.xyxy, table.landmarks
        if orientation is not None:
            boxes = turn_boxes(boxes, declared_hw, orientation)
            points = turn_landmarks(points, declared_hw, orientation)
        pixels, objects = draw(image, Objects(boxes, table.labels, table.crowd, points))
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
    columns = [column for column in zip(*objects, strict=True) if column[0] is not None]
    return DetectionBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        target=stack_targets(*(list(map(torch.from_numpy, column)) for column in columns)),
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
        sizes_hw=torch.tensor(sizes_hw, dtype=torch.int64),
        paths=paths,
    )


class DetectionDataModule(ImageDataModule):
    """Images with their objects, in any format that `find_layout` recognizes.

    With nothing but a root, the layout is recognized: COCO, YOLO or Pascal VOC as they are
    published and as CVAT, Label Studio, Roboflow and others export them. The files of a split in
    COCO's format may also be named, and be a list of parts, as the MobileNet paper trains on
    train2014 and on val2014 without the 8,059 "minival" images.

    Args:
        root: folder of the dataset, or a YAML file of YOLO's.
        train: what the training split is called on disk, if not "train" (such as VOC's "trainval");
            or its files in COCO's format. If the files of any split are given, others are not
            looked for.
        val: the same of the validation split.
        test: the same of the test split; where there is none, the validation split is used.
        categories: id -> name of the classes to use, in class order; null takes all that the files
            declare, or that occur in the training split, by name, if they declare none.
        layout: coco, yolo or voc, for a folder that has several.
        val_fraction: share of the training images to hold out for validation, where there is no
            validation split; near-duplicates stay on one side, see `divide`. The names of the
            images are written to ``split.json`` in the run's directory and kept in checkpoints,
            which are resumed and tested with them.
        split_seed: seed of that choice.
        unlabeled: what images without a label file are, in formats of one file for each image:
            "error", "skip" to leave them out and count them, or "background".
        ignore_difficult: "difficult" objects of VOC are regions to ignore, not objects to detect.
        voc_classes: whether the classes of VOC files are VOC's twenty; null uses them if every file
            names VOC as its source.
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
        train: Split | list[Split] | str | None = None,
        val: Split | list[Split] | str | None = None,
        test: Split | list[Split] | str | None = None,
        categories: dict[int, str] | None = None,
        *,
        layout: FormatName | None = None,
        val_fraction: float | None = None,
        split_seed: int = 0,
        unlabeled: Unlabeled = "error",
        ignore_difficult: bool = True,
        voc_classes: bool | None = None,
        size_hw: tuple[int, int] = (300, 300),
        train_transform: Transform | None = None,
        val_transform: Transform | None = None,
        mosaic: Mosaic | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        found = named_layout(root, {"train": train, "val": val, "test": test}, layout)
        self.root = found.root
        self.splits = dict(found.splits)
        self.layout = replace(found, splits=self.splits)
        self.read_options = ReadOptions(self.on_error, unlabeled, ignore_difficult, voc_classes)
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self._val_names: frozenset[str] | None = None
        self._check_validation()
        self._whole: dict[str, Annotations] = {}
        self._categories = categories or self.layout.known_categories()
        if self._categories is None:
            self._categories = self._read_whole(next(iter(self.splits))).categories
        names = ", ".join(self.categories.values())
        rank_zero_info("%s. Classes (%d): %s", found, self.num_classes, shorten(names, 300))
        self.size_hw = (size_hw[0], size_hw[1])
        self.train_transform = train_transform or SSDAugment(self.size_hw)
        self.val_transform = val_transform or Resize(self.size_hw)
        require_size(self.train_transform, self.size_hw)
        require_size(self.val_transform, self.size_hw)
        self.mosaic = mosaic

    def _check_validation(self) -> None:
        """Make the training split that of validation, too, where a part of it is held out."""
        train, val = self.splits.get("train"), self.splits.get("val")
        if self.val_fraction is None:
            if train and train == val:
                rank_zero_warn(
                    f"{self.root}: training and validation have the same images, so validation "
                    "says nothing of others. Better hold some out with data.val_fraction"
                )
            return
        if not 0 < self.val_fraction < 1:
            raise DataError(f"val_fraction={self.val_fraction} must lie between 0 and 1.")
        if val:
            raise DataError(
                f"{self.root}: has a validation split, so data.val_fraction has nothing to do. "
                "Leave it out."
            )
        require_split(self.root, self.splits, "train")
        self.splits["val"] = self.splits["train"]

    @property
    def categories(self) -> dict[int, str]:
        """COCO category id -> name, known from construction; the position is the class index."""
        return self._categories or {}

    @property
    def num_classes(self) -> int:
        """Number of classes, background not counted."""
        return len(self.categories)

    def read_split(self, split: str) -> Annotations:
        """Read the annotations of "train", "val" or "test".

        The images are read, too, where a part of them is held out.
        """
        self._require(split)
        if self.val_fraction is None or split == "test":
            return self._read_whole(split)
        annotations = self._read_whole("train")
        names = names_below(annotations, self.root)
        if self._val_names is None:
            division = divide(annotations, self.val_fraction, self.split_seed)
            rank_zero_info("%s: for validation, %s", self.root, division.summary())
            self._val_names = frozenset(np.array(names)[division.held_out].tolist())
        held_out = np.array([name in self._val_names for name in names], dtype=bool)
        part = annotations.select(held_out == (split == "val"))
        which = "held-out" if split == "val" else "remaining"
        return replace(part, title=f"{part.title}, {which} part")

    def _require(self, split: str) -> None:
        if split == "val" and split not in self.splits:
            raise DataError(
                f"{self.root}: there is no val split, only {', '.join(self.splits)}. Hold out a "
                "part of the training images with data.val_fraction=0.2, or give its place with "
                "data.val."
            )
        require_split(self.root, self.splits, split)

    def _read_whole(self, split: str) -> Annotations:
        """Read a split as it is on disk; it is kept until `setup` has read all it needs."""
        if split not in self._whole:
            self._whole[split] = self.layout.read(split, self._categories, self.read_options)
        return self._whole[split]

    def read_dataset(self, split: str) -> DetectionDataset:
        """See `ImageDataModule`; the files of the images must exist.

        The headers of evaluation images are read, too, because the ground truth must be right
        before the first of them is evaluated; training images are checked as they are read.
        """
        annotations = self.read_split(split)
        if split != "train":
            fitted = fit_to_images(annotations)
            return DetectionDataset(fitted, self.val_transform, self.seed, self.on_error)
        return DetectionDataset(
            drop_missing(annotations), self.train_transform, self.seed, self.on_error,
            mosaic=self.mosaic, mosaic_epochs=self._mosaic_epochs(),
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        """See `ImageDataModule`; in training, the names of the images held out are written."""
        if stage in ("fit", "validate"):
            self._require("val")
        super().setup(stage)
        self._whole.clear()
        if stage == "fit" and self.val_fraction is not None and self.trainer is not None:
            # log_dir is a collective call: every process asks.
            folder = self.trainer.log_dir
            if folder and self.trainer.is_global_zero and self.trainer.loggers:
                names = {
                    split: names_below(self.datasets[split].annotations, self.root)
                    for split in ("train", "val")
                }
                facts = {"val_fraction": self.val_fraction, "split_seed": self.split_seed}
                content = json.dumps({"root": str(self.root)} | facts | names, indent=1)
                write_atomically(Path(folder) / SPLIT_FILE, content.encode())

    def state_dict(self) -> dict[str, Any]:
        """See `ImageDataModule`; with the names of the images held out."""
        names = {} if self._val_names is None else {"val_names": sorted(self._val_names)}
        return super().state_dict() | names

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `ImageDataModule`; the images held out become those of the checkpoint."""
        super().load_state_dict(state_dict)
        names = frozenset(state_dict.get("val_names") or ())
        if self.val_fraction is None or not names or names == self._val_names:
            return
        rank_zero_info("%s: the images held out are those of the checkpoint", self.root)
        self._val_names = names
        stage = "fit" if "train" in self.datasets else "validate"
        self.datasets = {key: data for key, data in self.datasets.items() if key == "test"}
        self.setup(stage)
        absent = names - set(names_below(self.datasets["val"].annotations, self.root))
        if absent:
            rank_zero_warn(
                f"{self.root}: {len(absent):,} images that the checkpoint held out are not there, "
                f"such as {min(absent)}"
            )

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


def __getattr__(name: str) -> Any:
    """Return the one data module under its old names, for the YAML of older runs."""
    if name not in ("CocoDataModule", "VocDataModule"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    rank_zero_warn(f"{name} is DetectionDataModule now, which recognizes every layout: rename it")
    return DetectionDataModule
