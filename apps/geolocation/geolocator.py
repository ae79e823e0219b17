"""Geolocation from Python: pictures of any kind in, places with probabilities out.

    from mobilevision.apps import Geolocator

    geolocator = Geolocator.load("world.ckpt")
    result = geolocator("street.jpg")
    result.latitude, result.longitude, result.radius_90_km, result.places[0].probability

Positions that pictures carry in their EXIF data are not looked at.
"""

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ...datasets.classification_transforms import CentreCrop
from ...datasets.errors import DataError
from ...datasets.images import ImageFile, stretch
from ...heads.geolocation.cells import Partition
from ...heads.geolocation.decoding import Answer, Decoder, Places
from ...heads.geolocation.task import CROP, GeolocationTask
from ..engines.eager import choose_device
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures, prepare_ahead
from ..training.runs import AtomicCheckpointIO
from .results import LocationResult, Place

_FIVE_CROP_SCALE = 8 / 7  # crops of 224 from 256


class Geolocator:
    """Tells where pictures were taken.

    Args:
        task: A trained task with its cells; it is copied.
        size_hw: Height and width of the network's input; None takes those of training.
        answer: The mean position of the best cell's photos, or where the probability is densest.
        five_crop: Average over the four corners and the centre of each picture.
        device: "auto" takes an accelerator where there is one, else the CPU.

    Raises:
        DataError: There is no such device, or nothing says how large the pictures are or what
            the cells are.
    """

    def __init__(
        self,
        task: GeolocationTask,
        size_hw: tuple[int, int] | None = None,
        answer: Answer = "cell",
        five_crop: bool = False,
        device: str = "auto",
    ) -> None:
        trained = task.facts.get("size_hw")
        if size_hw is None and trained is None:
            raise DataError(
                "the checkpoint does not say how large its pictures were in training; give the "
                "size, for instance size_hw=(224, 224) or --size 224 224"
            )
        height, width = size_hw or trained or (0, 0)
        if min(height, width) < 1:
            raise DataError(f"size_hw={height, width}: height and width must be at least 1")
        self.size_hw = (int(height), int(width))
        self.device = choose_device(device)
        own = copy.deepcopy(task).eval().requires_grad_(False)
        own.five_crop_hw = self.size_hw if five_crop else None
        self._task = own.to(self.device)
        self.answer = answer
        self.five_crop = five_crop
        self._decoder = Decoder(task.partitions[-1], answer, levels=task.calibration.levels)
        self._crop: float | None = task.facts.get(CROP)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        answer: Answer = "cell",
        five_crop: bool = False,
    ) -> "Geolocator":
        """Load a checkpoint of ``GeolocationTask``.

        Args:
            path: The file.
            device: See the class, like the following three.
            size_hw: See there.
            answer: See there.
            five_crop: See there.

        Raises:
            DataError: No such file, or no geolocator in it; the message says what to do.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(
                f"{path}: no such model. `lightning fit -c configs/geolocation_quickstart.yaml` "
                "makes one on a generated world; none is published."
            )
        checkpoint = AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")
        facts = checkpoint.get("mobilevision", {}) if isinstance(checkpoint, dict) else {}
        if "cells" not in facts:
            raise DataError(f"{path}: has no cells, so it is no model of geolocation")
        try:
            task = GeolocationTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        except Exception as error:  # wrong arguments, missing classes, weights that do not fit
            raise DataError(f"{path}: its geolocator cannot be rebuilt: {error}") from error
        return cls(task, size_hw, answer, five_crop, device)

    @property
    def partition(self) -> Partition:
        """The cells that are told apart."""
        return self._decoder.partition

    def __call__(
        self,
        images: PictureLike | Iterable[PictureLike],
        top: int = 5,
        batch_size: int = 16,
    ) -> "LocationResult | list[LocationResult]":
        """Tell where pictures were taken.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or
                any iterable of them, of mixed kinds and sizes.
            top: Places of each result, at most.
            batch_size: Pictures that go through the network at once.

        Returns:
            A result for a single picture, a list for anything else; an empty list for an empty one.

        Raises:
            DataError: A picture cannot be read; use ``stream`` to go on with the others.
        """
        pictures, single = as_pictures(images)
        results = all_or_raise(self.stream(pictures, top, batch_size))
        return results[0] if single else results

    def stream(
        self, pictures: Iterable[Picture], top: int = 5, batch_size: int = 16
    ) -> Iterator[LocationResult | DataError]:
        """Locate any number of pictures without holding more than a few of them.

        Args:
            pictures: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            top: Places of each result, at most.
            batch_size: Pictures that go through the network at once.

        Yields:
            For each picture in order its result, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        if batch_size < 1 or top < 1:
            raise DataError(f"batch_size={batch_size}, top={top}: both must be at least 1")
        prepared = prepare_ahead(pictures, self._prepare, ahead=2 * batch_size)
        while batch := list(islice(prepared, batch_size)):
            good = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
            rows = iter(self._locate(np.stack(good), top)) if good else iter(())
            for picture, pixels in batch:
                if isinstance(pixels, DataError):
                    yield pixels
                else:
                    answer, radii, places = next(rows)
                    yield LocationResult(*answer, *radii, places, self.partition, picture)

    def _prepare(self, picture: Picture) -> np.ndarray:
        """As evaluation does in training: (h, w, 3) uint8."""
        crop = CentreCrop(self.size_hw, self._crop) if self._crop is not None else None
        if self._task.five_crop_hw is not None:
            height, width = (round(side * _FIVE_CROP_SCALE) for side in self.size_hw)
            crop = CentreCrop((height, width), 1.0)
        if crop is None:
            return stretch(picture.read(), self.size_hw)
        return crop(cast(ImageFile, picture), np.random.default_rng(0))  # draws nothing

    def _locate(
        self, images: np.ndarray, top: int
    ) -> Iterator[tuple[tuple[float, float], tuple[float, float], tuple[Place, ...]]]:
        """Answers, radii and places for pictures (B, h, w, 3) uint8."""
        with torch.inference_mode():
            batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
            probabilities = self._task.probabilities(batch).float().cpu().numpy()
        found: Places = self._decoder(probabilities)
        table = self.partition.table
        for row in range(len(images)):
            best = np.argsort(-probabilities[row], kind="stable")[:top].tolist()
            places = tuple(
                Place(
                    float(table.latlng_deg[cell, 0]),
                    float(table.latlng_deg[cell, 1]),
                    float(probabilities[row, cell]),
                    str(table.tokens[int(cell)]),
                    cell,
                )
                for cell in best
            )
            latitude, longitude = found.latlng_deg[row].tolist()
            half, most = found.radii_km[row].tolist()
            yield (latitude, longitude), (half, most), places
