"""The data module of the generated scenes."""

from pathlib import Path
from typing import Any

from ..detection.layout import Split
from ..detection.module import CocoDataModule
from .detection import (
    CATEGORIES,
    DEFAULT_SIZE_HW,
    DEFAULT_TRAIN,
    DEFAULT_VAL,
    annotation_file,
    write_scenes,
)


class SyntheticDataModule(CocoDataModule):
    """Generated scenes, written on first use and then read like any COCO-format data set.

    The pictures are made in ``prepare_data``, which the trainer calls on one process of each
    machine; the classes are known before that.

    Args:
        root: folder that the scenes are written to, and read from if they are there.
        train_scenes: number of training pictures.
        val_scenes: number of validation pictures.
        scene_size_hw: height and width of the pictures on disk in pixels; ``size_hw`` is what the
            network gets.
        scene_seed: another one draws other scenes; ``seed`` is that of order and augmentation.
        **options: see `DetectionDataModule`.

    Raises:
        DataError: the folder holds something else, or an option is out of its range.
    """

    def __init__(
        self,
        root: str | Path = "data/synthetic",
        train_scenes: int = DEFAULT_TRAIN,
        val_scenes: int = DEFAULT_VAL,
        scene_size_hw: tuple[int, int] = DEFAULT_SIZE_HW,
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
        self.val_scenes = val_scenes
        self.scene_size_hw = scene_size_hw
        self.scene_seed = scene_seed

    def prepare_data(self) -> None:
        """Write the scenes unless they are there.

        Raises:
            DataError: as `write_scenes` does.
        """
        write_scenes(
            self.root,
            train=self.train_scenes,
            val=self.val_scenes,
            size_hw=self.scene_size_hw,
            seed=self.scene_seed,
        )
