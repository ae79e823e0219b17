"""Geolocation from Python: images of any kind in, places with probabilities out.

    from mobilevision.apps import Geolocator

    geolocator = Geolocator.load("world.ckpt")
    result = geolocator("street.jpg")
    result.latitude, result.longitude, result.radius_90_km, result.places[0].probability

Positions that images carry in their EXIF data are not looked at.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...datasets.errors import DataError
from ...datasets.geolocation.cells import Partition
from ...datasets.geolocation.coordinates import CellTable
from ...datasets.images import center_crop
from ...heads.geolocation.decoding import Answer, Calibration, Decoder
from ...heads.trust import trusting
from .predictor import ImageLike, ImageSource, Predictor, Prepared, as_images
from .runtime import AS_THEY_ARE, ModelMetadata, Runtime, cropped, is_exported

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.geolocation.task import GeolocationTask
    from .torch import Prepare

_FIVE_CROP_SCALE = 8 / 7  # crops of 224 from 256
_OUTPUTS = {"probabilities": "(batch, cells) float32: of the cells of the finest partition"}

Ring = list[tuple[float, float]]


@dataclass(frozen=True)
class Place:
    """A cell that the image may have been taken in.

    Attributes:
        latitude: Of the mean position of the cell's training photos, in degrees.
        longitude: Likewise.
        probability: In [0, 1].
        cell: S2 token.
        index: Class index of the cell.
    """

    latitude: float
    longitude: float
    probability: float
    cell: str
    index: int


@dataclass(frozen=True)
class LocationResult:
    """Where an image was taken, and how sure that is.

    Attributes:
        latitude: The answer, in degrees.
        longitude: Likewise.
        radius_50_km: Around the answer, what holds half of the probability.
        radius_90_km: Likewise nine tenths.
        places: The most probable cells, falling.
        partition: The cells, for outlines.
        image: What was looked at.
    """

    latitude: float
    longitude: float
    radius_50_km: float
    radius_90_km: float
    places: tuple[Place, ...]
    partition: Partition
    image: ImageSource

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the answer, the radii and the places, without outlines."""
        return {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "radius_50_km": self.radius_50_km,
            "radius_90_km": self.radius_90_km,
            "places": [
                {
                    "latitude": place.latitude,
                    "longitude": place.longitude,
                    "probability": place.probability,
                    "cell": place.cell,
                }
                for place in self.places
            ],
        }

    def to_geojson(self, name: str | None = None) -> dict[str, Any]:
        """A FeatureCollection (RFC 7946): the answer as a point, the cells as polygons.

        Args:
            name: Goes into the properties of each feature as ``picture``.

        Raises:
            DataError: ``s2geometry`` is not installed.
        """
        named = {} if name is None else {"picture": name}
        answer = {
            "radius_50_km": self.radius_50_km,
            "radius_90_km": self.radius_90_km,
            **named,
        }
        point = {"type": "Point", "coordinates": _rounded(self.longitude, self.latitude)}
        features = [_feature(point, answer)]
        for place in self.places:
            outline = geometry(self.partition.polygon(place.index))
            said = {"cell": place.cell, "probability": place.probability, **named}
            features.append(_feature(outline, said))
        return {"type": "FeatureCollection", "features": features}


def _feature(shape: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": shape, "properties": properties}


def geometry(ring: Ring) -> dict[str, Any]:
    """A closed ring of (longitude, latitude) as GeoJSON, cut at the antimeridian (Section 3.1.9).

    Args:
        ring: without jumps; longitudes may reach beyond 180 degrees.
    """
    parts = []
    for shift in (-360.0, 0.0, 360.0):
        moved = [(longitude + shift, latitude) for longitude, latitude in ring]
        part = _clipped(_clipped(moved, 180.0, 1.0), -180.0, -1.0)
        if len(part) > 3 and len({longitude for longitude, _ in part}) > 1:
            parts.append([_rounded(longitude, latitude) for longitude, latitude in part])
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts}
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _rounded(longitude: float, latitude: float) -> list[float]:
    """To a centimetre, as Section 11.2 of RFC 7946 advises against false precision."""
    return [round(longitude, 7), round(latitude, 7)]


def _clipped(ring: Ring, edge: float, sign: float) -> Ring:
    """The part of a closed ring where sign * longitude <= sign * edge (Sutherland & Hodgman)."""
    out: Ring = []
    for (x, y), (next_x, next_y) in pairwise(ring):
        inside, next_inside = sign * x <= sign * edge, sign * next_x <= sign * edge
        if inside:
            out.append((x, y))
        if inside != next_inside:
            share = (edge - x) / (next_x - x)
            out.append((edge, y + share * (next_y - y)))
    return [*out, out[0]] if out else []


class Geolocator(Predictor[LocationResult]):
    """Tells where images were taken.

    Args:
        runtime: What runs the network; ``load`` and ``from_task`` make one.
        answer: The mean position of the best cell's photos, or where the probability is densest.
        five_crop: Average over five parts of each image, which the runtime has to do.

    Raises:
        DataError: The model does not say what its cells are.
    """

    job = "geolocation"
    hint = (
        "`lightning fit -c configs/geolocation_quickstart.yaml` makes one on a generated world; "
        "none is published."
    )

    def __init__(self, runtime: Runtime, answer: Answer = "cell", five_crop: bool = False) -> None:
        super().__init__(runtime)
        details = runtime.metadata.details
        try:
            table = cells_from_plain(details["cells"])
            calibration = Calibration.from_plain(details.get("calibration"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the model does not say what its cells are ({error}). Export it again."
            ) from error
        self.answer: Answer = answer
        self.five_crop = five_crop
        """Whether answers are averages over five parts of each image."""
        self.crop_fraction: float | None = details.get("crop_fraction")
        """Central part of an image that is looked at; None is the whole image, stretched."""
        self._decoder = Decoder(Partition(table, "cells"), answer, levels=calibration.levels)

    @staticmethod
    def task_class() -> "type[GeolocationTask]":
        """See ``Predictor``."""
        from ...heads.geolocation.task import GeolocationTask

        return GeolocationTask

    @classmethod
    def describe(cls, task: "GeolocationTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``; the cells and their calibration are the details.

        Raises:
            DataError: The task does not say what its cells are.
        """
        crop = task.metadata.get("crop_fraction")
        details = {
            "cells": cells_to_plain(task.partitions[-1].table),
            "calibration": task.calibration.to_plain(),
            "crop_fraction": crop,
        }
        preparation = AS_THEY_ARE if crop is None else cropped(crop)
        return ModelMetadata(
            cls.job, size_hw, dict(task.categories), dict(_OUTPUTS), preparation=preparation,
            details=details,
        )  # fmt: skip

    @staticmethod
    def adapted(task: "GeolocationTask", prepare: "Prepare") -> "nn.Module":
        """See ``Predictor``: the whole task, whose calibration is applied to the scores."""
        own = cast("GeolocationTask", prepare(task))
        own.five_crop_hw = None
        return own

    @staticmethod
    def outputs(network: "nn.Module", pixels: "Tensor", *_: Any) -> "tuple[Tensor, ...]":
        """See ``Predictor``: the probabilities."""
        return (cast("GeolocationTask", network).probabilities(pixels).float(),)

    @classmethod
    def load(  # type: ignore[override]
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
            five_crop: Average over the four corners and the center of each image; checkpoints
                alone can.
            trust: Packages whose classes a checkpoint may name besides those of this package;
                never for a file of a stranger.

        Raises:
            DataError: No such file or device, or no geolocator in it; the message says what to do.
        """
        if not five_crop:
            model = super().load(path, device, size_hw, trust)
            return model if answer == "cell" else cls(model.runtime, answer)
        path = Path(path)
        cls.require_model(path, size_hw)
        if is_exported(path):
            raise DataError(
                f"{path}: an exported file looks at each image once; five crops need the "
                "checkpoint."
            )
        from ...heads.checkpoint import load_task

        with trusting(trust):
            task = load_task(path, cls.task_class())
        return cls.from_task(task, size_hw, answer, five_crop, device)

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
            DataError: There is no such device, or nothing says how large the images are or what
                the cells are.
        """
        from .torch import run_task

        runtime = run_task(cls, task, device, size_hw)
        cast("GeolocationTask", runtime.network.network).five_crop_hw = (
            runtime.metadata.size_hw if five_crop else None
        )
        return cls(runtime, answer, five_crop)

    @property
    def partition(self) -> Partition:
        """The cells that are told apart."""
        return self._decoder.partition

    def __call__(  # type: ignore[override]
        self,
        images: ImageLike | Iterable[ImageLike],
        top: int = 5,
        batch_size: int = 16,
    ) -> "LocationResult | list[LocationResult]":
        """Tell where images were taken.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or
                any iterable of them, of mixed kinds and sizes.
            top: Places of each result, at most.
            batch_size: Images that go through the network at once.

        Returns:
            A result for a single image, a list for anything else; an empty list for an empty one.

        Raises:
            DataError: An image cannot be read; use ``stream`` to go on with the others.
        """
        sources, single = as_images(images)
        results: list[Any] = list(self.stream(sources, top, batch_size, strict=True))
        return results[0] if single else results

    def stream(  # type: ignore[override]
        self,
        images: Iterable[ImageSource],
        top: int = 5,
        batch_size: int = 16,
        strict: bool = False,
    ) -> Iterator[LocationResult | DataError]:
        """Locate any number of images without holding more than a few of them.

        Args:
            images: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            top: Places of each result, at most.
            batch_size: Images that go through the network at once.
            strict: Whether an image that cannot be read raises its error, in place of yielding it.

        Returns:
            For each image in order its result, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        if batch_size < 1 or top < 1:
            raise DataError(f"batch_size={batch_size}, top={top}: both must be at least 1")
        return self.run(images, batch_size, strict, top=top)

    def prepare(self, image: ImageSource) -> Prepared:
        """Read an image as evaluation does in training."""
        size_hw, fraction = self.size_hw, self.crop_fraction
        if self.five_crop:
            height, width = (round(side * _FIVE_CROP_SCALE) for side in size_hw)
            size_hw, fraction = (height, width), 1.0
        if fraction is None:
            return super().prepare(image)
        pixels = image.read()
        original_hw = (pixels.shape[0], pixels.shape[1])
        return Prepared(center_crop(pixels, size_hw, fraction), original_hw)

    def decode(  # type: ignore[override]
        self,
        outputs: Mapping[str, np.ndarray],
        images: Sequence[tuple[ImageSource, Prepared]],
        *,
        top: int = 5,
    ) -> Iterator[LocationResult]:
        """See ``Predictor``."""
        probabilities = outputs["probabilities"]
        found = self._decoder(probabilities)
        table = self.partition.table
        for row, (image, _) in enumerate(images):
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
            yield LocationResult(latitude, longitude, half, most, places, self.partition, image)


def cells_to_plain(table: CellTable) -> dict[str, list]:
    """A table of cells for JSON; what is not known is null."""
    spread = [None if np.isnan(each) else each for each in table.spread_km.tolist()]
    return {
        "tokens": list(table.tokens),
        "latlng_deg": table.latlng_deg.tolist(),
        "photos": table.photos.tolist(),
        "spread_km": spread,
    }


def cells_from_plain(plain: dict[str, list]) -> CellTable:
    """The table of what ``cells_to_plain`` returned."""
    spread = [np.nan if each is None else each for each in plain["spread_km"]]
    return CellTable(
        tuple(plain["tokens"]),
        np.array(plain["latlng_deg"], np.float64).reshape(-1, 2),
        np.array(plain["photos"], np.int64),
        np.array(spread, np.float64),
    )
