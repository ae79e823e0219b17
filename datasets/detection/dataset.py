"""Detection data sets for training and evaluation: pictures and boxes by number, and as batches."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data_errors import OnError
from ..image_dataset import ImageDataset
from ..images import ImageFile
from ..sampling import SampleKey
from ..transforms.detection import Objects, Transform
from ..transforms.mosaic import TILES, Mosaic, Tile
from ..types import DetectionBatch, stack_targets
from .annotations import Annotations
from .image_checks import quarter_turn, turn_boxes


class Sample(NamedTuple):
    """One picture, ready for the network; of a mosaic, what is said of the file is the first's."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB, of the network's input size."""
    objects: Objects
    """In its pixels."""
    image_id: int
    size_hw: tuple[int, int]
    """Of the original picture in pixels, EXIF rotation applied."""
    path: str
    """Of a mosaic all four, with " + " between them."""


class DetectionDataset(ImageDataset[Sample]):
    """Reads, augments and hands out the images of a data set.

    The augmentation of a picture depends on seed, epoch and position alone: not on the number of
    workers, nor on where a run was resumed.

    Args:
        annotations: what to read.
        transform: makes the network's input.
        seed: at least 0.
        on_error: what a picture that cannot be read, or is not as large as declared, leads to.
            "skip" hands out the next good one in its place; its image id says so, and
            `unreadable` counts.
        mosaic: for training: joins a picture with three others, in place of ``transform``.
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
        """Read the picture of a key; a plain position stands for epoch 0.

        Raises:
            DataError: it cannot be read, and ``on_error`` is "raise" or no other can be read.
        """
        rng_key = self.rng_key(key)
        _, epoch, position = rng_key
        open_to_mosaics = self.mosaic_epochs is None or epoch < self.mosaic_epochs
        if self.mosaic is not None and open_to_mosaics:
            rng = np.random.default_rng((*rng_key, TILES))
            if rng.random() < self.mosaic.p:
                return self._read_mosaic(position, self.mosaic, rng)
        return self.first_readable(
            position, lambda index: self._read(index, np.random.default_rng(rng_key))
        )

    def _read(self, index: int, rng: np.random.Generator) -> Sample:
        return self._sample(index, partial(self.transform, rng=rng))

    def _read_mosaic(self, position: int, mosaic: Mosaic, rng: np.random.Generator) -> Sample:
        """The picture at a position and three others; which tile each fills is drawn, too."""
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
        """What ``draw`` makes of an image and its objects, both as the picture stands upright."""
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
        """The COCO-format dict that evaluation takes; boxes as annotated."""
        return self.annotations.ground_truth

    def summary(self) -> str:
        """One line for the log."""
        return self.annotations.summary()


def collate(samples: list[Sample]) -> DetectionBatch:
    """Stack B samples of one size to a batch."""
    images, objects, image_ids, sizes_hw, paths = zip(*samples, strict=True)
    return DetectionBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        target=stack_targets(
            [torch.from_numpy(item.boxes) for item in objects],
            [torch.from_numpy(item.labels) for item in objects],
            [torch.from_numpy(item.crowd) for item in objects],
        ),
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
        sizes_hw=torch.tensor(sizes_hw, dtype=torch.int64),
        paths=paths,
    )
