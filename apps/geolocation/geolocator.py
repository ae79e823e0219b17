"""Geolocation from Python: pictures of any kind in, places with probabilities out.

    from mobilevision.apps import Geolocator

    geolocator = Geolocator.load("world.ckpt")
    result = geolocator("street.jpg")
    result.latitude, result.longitude, result.radius_90_km, result.places[0].probability

Positions that pictures carry in their EXIF data are not looked at.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ...datasets.classification_transforms import CentreCrop
from ...datasets.errors import DataError
from ...datasets.images import ImageFile, stretch
from ...heads.geolocation.cells import Partition
from ...heads.geolocation.decoding import Answer, Decoder, Places
from ...heads.trust import trusting
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures, prepare_ahead
from .engines import GeolocationEngine, load_geolocation_engine
from .results import LocationResult, Place

if TYPE_CHECKING:
    from ...heads.geolocation.task import GeolocationTask

_FIVE_CROP_SCALE = 8 / 7  # crops of 224 from 256


class Geolocator:
    """Tells where pictures were taken.

    Args:
        engine: What runs the network; ``Geolocator.load`` and ``Geolocator.from_task`` make one.
        answer: The mean position of the best cell's photos, or where the probability is densest.
    """

    def __init__(self, engine: GeolocationEngine, answer: Answer = "cell") -> None:
        self.engine = engine
        self.answer: Answer = answer
        self._decoder = Decoder(engine.partition, answer, levels=engine.calibration.levels)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        answer: Answer = "cell",
        five_crop: bool = False,
        trust: Iterable[str] = (),
    ) -> "Geolocator":
        """Load a checkpoint of ``GeolocationTask``, or what ``mobilevision export`` made of one.

        Args:
            path: The file.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size_hw: Height and width of the network's input; None takes those of training.
            answer: See the class.
            five_crop: Average over the four corners and the centre of each picture; checkpoints
                alone can.
            trust: Packages whose classes a checkpoint may name besides those of this package; never
                for a file of a stranger.

        Raises:
            DataError: No such file or device, or no geolocator in it; the message says what to do.
        """
        with trusting(trust):
            return cls(load_geolocation_engine(path, device, size_hw, five_crop), answer)

    @classmethod
    def from_task(
        cls,
        task: "GeolocationTask",
        size_hw: tuple[int, int] | None = None,
        answer: Answer = "cell",
        five_crop: bool = False,
        device: str = "auto",
    ) -> "Geolocator":
        """Make it of a task with its cells; the task is copied.

        Args:
            task: As trained.
            size_hw: As for ``load``, like the following three.
            answer: See there.
            five_crop: See there.
            device: See there.

        Raises:
            DataError: There is no such device, or nothing says how large the pictures are or what
                the cells are.
        """
        from .torch_engine import TorchGeolocation

        return cls(TorchGeolocation(task, size_hw, five_crop, device), answer)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.engine.size_hw

    @property
    def five_crop(self) -> bool:
        """Whether answers are averages over five parts of each picture."""
        return self.engine.five_crop

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
        crop = None
        if self.engine.crop_fraction is not None:
            crop = CentreCrop(self.size_hw, self.engine.crop_fraction)
        if self.engine.five_crop:
            height, width = (round(side * _FIVE_CROP_SCALE) for side in self.size_hw)
            crop = CentreCrop((height, width), 1.0)
        if crop is None:
            return stretch(picture.read(), self.size_hw)
        return crop(cast(ImageFile, picture), np.random.default_rng(0))  # draws nothing

    def _locate(
        self, images: np.ndarray, top: int
    ) -> Iterator[tuple[tuple[float, float], tuple[float, float], tuple[Place, ...]]]:
        """Answers, radii and places for pictures (B, h, w, 3) uint8."""
        probabilities = self.engine(images)
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
