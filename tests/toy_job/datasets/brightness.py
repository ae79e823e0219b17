"""The data: folders ``train`` and ``val`` of images, whose own pixels say how bright they are."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mobilevision.datasets.image_module import ImageDataModule, ImageDataset, collate_fields
from mobilevision.datasets.images import ImageFile, stretch


class Sample(NamedTuple):
    """An image, ready for the network."""

    image: np.ndarray
    brightness: np.float32
    position: int
    path: str


class BrightnessBatch(NamedTuple):
    """B images."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    brightness: Tensor
    """(B,) float32 from 0 to 1."""
    ids: Tensor
    """(B,) int64."""
    paths: tuple[str, ...]


class BrightnessDataset(ImageDataset[Sample]):
    """The images of a folder."""

    def __init__(self, folder: Path, size_hw: tuple[int, int], **options: Any) -> None:
        super().__init__(folder.name, sorted(map(str, folder.glob("*.jpg"))), **options)
        self.size_hw = size_hw

    def read_sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Read an image, mirrored by chance."""
        pixels = stretch(ImageFile(self.paths[index]).read(), self.size_hw)
        pixels = np.ascontiguousarray(pixels[:, :: rng.choice([-1, 1])])
        return Sample(pixels, np.float32(pixels.mean() / 255), index, str(self.paths[index]))


class BrightnessModule(ImageDataModule):
    """Images of a folder; see ``ImageDataModule`` for the options."""

    def __init__(
        self, root: str | Path, size_hw: tuple[int, int] = (32, 32), **options: Any
    ) -> None:
        super().__init__(**options)
        self.splits = {"train": "train", "val": "val"}
        self.root = Path(root)
        self.size_hw = (size_hw[0], size_hw[1])

    @staticmethod
    def collate(samples: list[Sample]) -> BrightnessBatch:
        """Stack samples."""
        return BrightnessBatch(*collate_fields(samples))

    def read_dataset(self, split: str) -> BrightnessDataset:
        """Read a split."""
        folder = self.root / self.splits[split]
        return BrightnessDataset(folder, self.size_hw, seed=self.seed, on_error=self.on_error)
