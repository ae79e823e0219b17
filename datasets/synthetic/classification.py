"""Generated images of one object each, and their data module."""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..classification.image_folder import ImageFolderModule
from .generated import check_recipe, write_generated, write_jpeg
from .scenes import CLASS_NAMES, draw_object

VERSION = 1
"""Raised whenever the same parameters would draw other images."""

_KIND = "one object an image"


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

    The classes of the generated scenes take turns, so each has nearly the same number.

    Args:
        root: Folder to make; it appears when it is complete.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        size_hw: Height and width of every image in pixels, at least 64 each.
        seed: Not negative. Training and validation never share an image.
        progress: Show a progress bar on stderr.

    Returns:
        True if the data set was written, False if it was there.

    Raises:
        DataError: A parameter is out of range, or the folder holds something else.
    """
    check_recipe(train, val, size_hw, seed)
    recipe = {
        "kind": _KIND,
        "version": VERSION,
        "train": train,
        "val": val,
        "size_hw": list(size_hw),
        "seed": seed,
    }

    def write(folder: Path) -> None:
        with tqdm(total=train + val, desc="drawing", unit="image", disable=not progress) as bar:
            for index, (split, count) in enumerate((("train", train), ("val", val))):
                for name in CLASS_NAMES:
                    (folder / split / name).mkdir(parents=True)
                for number in range(1, count + 1):
                    rng = np.random.default_rng([seed, index, number])
                    label = number % len(CLASS_NAMES)
                    path = folder / split / CLASS_NAMES[label] / f"{number:06d}.jpg"
                    write_jpeg(path, draw_object(rng, label, size_hw), int(rng.integers(78, 96)))
                    bar.update()

    return write_generated(Path(root), recipe, write)


class SyntheticClassificationModule(ImageFolderModule):
    """Generated images of one object each, written on first use: eight classes.

    Args:
        root: folder that the images are written to, and read from if they are there.
        train_pictures: number of training images.
        val_pictures: number of validation images.
        picture_size_hw: height and width of the images on disk in pixels; ``size_hw`` is what
            the network gets.
        picture_seed: another one draws other images; ``seed`` is that of order and augmentation.
        **options: see `ClassificationDataModule`.

    Raises:
        DataError: the folder holds something else, or an option is out of its range.
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
        self.train_pictures = train_pictures
        self.val_pictures = val_pictures
        self.picture_size_hw = (picture_size_hw[0], picture_size_hw[1])
        self.picture_seed = picture_seed

    def prepare_data(self) -> None:
        """Write the images unless they are there.

        Raises:
            DataError: as `write_objects` does.
        """
        write_objects(
            self.root,
            train=self.train_pictures,
            val=self.val_pictures,
            size_hw=self.picture_size_hw,
            seed=self.picture_seed,
        )
