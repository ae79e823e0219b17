"""Generated images of one object each, and their data module."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..classification.image_folder import ImageFolderModule
from .generated import write_jpeg, write_splits
from .scenes import CLASS_NAMES, draw_object


def write_objects(
    root: Path | str,
    *,
    train: int = 2000,
    val: int = 400,
    size_hw: tuple[int, int] = (96, 96),
    seed: int = 0,
    progress: bool = True,
) -> bool:
    """Make ``root/train/<class>/000001.jpg`` ..., unless the same is there already.

    The classes of the generated scenes take turns, so each has nearly the same number of images.
    Training and validation never share an image. For the parameters see `write_splits`.
    """

    def write_split(folder: Path, split: str, index: int, numbers: Iterator[int]) -> None:
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True)
        for number in numbers:
            rng = np.random.default_rng([seed, index, number])
            label = number % len(CLASS_NAMES)
            path = folder / split / CLASS_NAMES[label] / f"{number:06d}.jpg"
            write_jpeg(path, draw_object(rng, label, size_hw), rng)

    return write_splits(
        root, write_split, counts={"train": train, "val": val}, size_hw=size_hw, seed=seed,
        version=1, kind="one object an image", progress=progress,
    )  # fmt: skip


class SyntheticClassificationModule(ImageFolderModule):
    """Generated images of one object each, written on first use: eight classes.

    Args:
        root: folder that the images are written to, and read from if they are there.
        train_pictures: number of training images.
        val_pictures: number of validation images.
        picture_size_hw: height and width of the images on disk in pixels; ``size_hw`` is the size
            of the network's input.
        picture_seed: seed of the images; ``seed`` is that of order and augmentation.
        **options: see `ClassificationDataModule`.
    """

    def __init__(
        self,
        root: str | Path = "data/synthetic_classification",
        train_pictures: int = 2000,
        val_pictures: int = 400,
        picture_size_hw: tuple[int, int] = (96, 96),
        picture_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(root, categories=dict(enumerate(CLASS_NAMES)), **options)
        counts = {"train": train_pictures, "val": val_pictures}
        size_hw = (picture_size_hw[0], picture_size_hw[1])
        self._write = partial(write_objects, root, **counts, size_hw=size_hw, seed=picture_seed)

    def prepare_data(self) -> None:
        """Write the images unless they are there, see `write_objects`."""
        self._write()
