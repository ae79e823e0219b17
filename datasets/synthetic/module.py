"""Data modules of the generated scenes and of the generated world."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..detection.layout import Split
from ..detection.module import DetectionDataModule
from ..errors import DataError
from ..geolocation.cells import build_partition
from ..geolocation.coordinates import CellTable
from ..geolocation.module import PhotoTableModule
from .detection import CATEGORIES, annotation_file, write_scenes
from .world import world_photos, write_world


class SyntheticDataModule(DetectionDataModule):
    """Generated scenes, written on first use and then read like any dataset in COCO's format.

    The images are made in ``prepare_data``, which the trainer calls on one process of each
    machine; the classes are known before that.

    Args:
        root: folder that the scenes are written to, and read from if they are there.
        train_scenes: number of training images.
        val_scenes: number of validation images.
        scene_size_hw: height and width of the images on disk in pixels; ``size_hw`` is the size of
            the network's input.
        scene_seed: seed of the scenes; ``seed`` is that of order and augmentation.
        **options: see `DetectionDataModule`.
    """

    def __init__(
        self,
        root: str | Path = "data/synthetic",
        train_scenes: int = 2000,
        val_scenes: int = 200,
        scene_size_hw: tuple[int, int] = (240, 240),
        scene_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(
            root,
            train=Split(annotation_file("train"), "train"),
            val=Split(annotation_file("val"), "val"),
            test=None,
            categories=dict(CATEGORIES),
            **options,
        )
        self.train_scenes = train_scenes
        counts = {"train": train_scenes, "val": val_scenes}
        self._write = partial(write_scenes, root, **counts, size_hw=scene_size_hw, seed=scene_seed)

    def prepare_data(self) -> None:
        """Write the scenes unless they are there, see `write_scenes`."""
        self._write()


class GeneratedWorldModule(PhotoTableModule):
    """A generated world, written on first use and then read like any table of photos.

    The cells follow from the positions of the training photos, known before the photos are drawn.

    Args:
        root: folder that the world is written to, and read from if it is there.
        train_photos: number of training photos.
        val_photos: number of validation photos.
        test_photos: number of test photos, which neither training nor calibration uses; with 0
            the test uses the validation photos.
        photo_size_hw: height and width of the images on disk in pixels; ``size_hw`` is the size of
            the network's input.
        world_seed: seed of the world; ``seed`` is that of order and augmentation.
        max_photos: cells with more are split; several numbers, falling, make several partitions.
        min_photos: cells with fewer are dropped.
        max_level: S2 level of the smallest cells.
        **options: see `PhotoDataModule`.
    """

    def __init__(
        self,
        root: str | Path = "data/world",
        train_photos: int = 4000,
        val_photos: int = 600,
        test_photos: int = 600,
        photo_size_hw: tuple[int, int] = (64, 64),
        world_seed: int = 0,
        max_photos: Sequence[int] = (600, 50),
        min_photos: int = 10,
        max_level: int = 12,
        **options: Any,
    ) -> None:
        test = "test.csv" if test_photos else None
        super().__init__(root, test=test, images=".", **options)
        if list(max_photos) != sorted(max_photos, reverse=True) or not max_photos:
            raise DataError(f"max_photos={list(max_photos)}: give falling numbers, coarse first")
        self.train_photos = train_photos
        self.world_seed = world_seed
        counts = {"train": train_photos, "val": val_photos, "test": test_photos}
        size_hw = (photo_size_hw[0], photo_size_hw[1])
        self._write = partial(write_world, root, **counts, size_hw=size_hw, seed=world_seed)
        self.max_photos = max_photos
        self.min_photos = min_photos
        self.max_level = max_level

    def prepare_data(self) -> None:
        """Write the world unless it is there, see `write_world`."""
        self._write()

    def read_cells(self) -> Sequence[CellTable]:
        """Build the partitions of the training photos."""
        latlng_deg = world_photos("train", self.train_photos, self.world_seed).latlng_deg
        least = min(self.min_photos, self.train_photos)
        return [
            build_partition(
                latlng_deg, max(most, least), least, max_level=self.max_level, name="world"
            )[0].table
            for most in self.max_photos
        ]
