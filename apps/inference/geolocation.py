"""Geolocation from Python: images of any kind in, positions with probabilities out.

    from mobilevision.apps import Geolocator

    geolocator = Geolocator.load("world.ckpt")
    result = geolocator("street.jpg")
    result.latitude, result.longitude, result.radius_90_km, result.places[0].probability

Positions in the EXIF data of the images are ignored.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from .predictor import (
    CHECKPOINT_SUFFIX,
    ImageLike,
    ImageSource,
    Predictor,
    Prepared,
    as_images,
)
from .runtime import ModelMetadata, Runtime, cropped, whole_install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.geolocation.task import GeolocationTask
    from .torch import Prepare

_FIVE_CROP_SCALE = 8 / 7  # crops of 224 px from 256 px
_OUTPUTS = {"probabilities": "(batch, cells) float32: of the cells of the finest partition"}

Ring = list[tuple[float, float]]


@dataclass(frozen=True)
class Place:
    """A cell that the image may have been taken in.

    Attributes:
        latitude: Latitude of the mean position of the cell's training photos, in degrees.
        longitude: Longitude of that position, in degrees.
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
    """The predicted position of an image, with its uncertainty.

    Attributes:
        latitude: Latitude of the prediction, in degrees.
        longitude: Longitude of the prediction, in degrees.
        radius_50_km: Radius around the prediction that holds half of the probability.
        radius_90_km: Radius that holds nine tenths.
        places: The most probable cells, the most probable first.
        partition: The cells, for outlines.
        image: The image.
    """

    latitude: float
    longitude: float
    radius_50_km: float
    radius_90_km: float
    places: tuple[Place, ...]
    partition: Partition
    image: ImageSource

    def to_dict(self) -> dict[str, Any]:
        """Return position, radii and places as plain data, without outlines."""
        places = [asdict(place) for place in self.places]
        for place in places:
            del place["index"]
        return {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "radius_50_km": self.radius_50_km,
            "radius_90_km": self.radius_90_km,
            "places": places,
        }

    def to_geojson(self, name: str | None = None) -> dict[str, Any]:
        """Return a FeatureCollection (RFC 7946): the position as a point, the cells as polygons.

        Args:
            name: The ``picture`` in the properties of each feature.

        Raises:
            DataError: ``s2geometry`` is not installed.
        """
        named = {} if name is None else {"picture": name}
        radii = {"radius_50_km": self.radius_50_km, "radius_90_km": self.radius_90_km}
        point = {"type": "Point", "coordinates": _rounded(self.longitude, self.latitude)}
        features = [_feature(point, {**radii, **named})]
        for place in self.places:
            outline = geometry(self.partition.polygon(place.index))
            cell = {"cell": place.cell, "probability": place.probability}
            features.append(_feature(outline, {**cell, **named}))
        return {"type": "FeatureCollection", "features": features}


def _feature(shape: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": shape, "properties": properties}


def geometry(ring: Ring) -> dict[str, Any]:
    """Return a closed ring as GeoJSON, cut at the antimeridian (RFC 7946, Section 3.1.9).

    Args:
        ring: (longitude, latitude) without jumps, so that longitudes may exceed 180 degrees.
    """
    parts = []
    # Each shift brings another part of the ring into [-180, 180].
    for shift in (-360.0, 0.0, 360.0):
        moved = [(longitude + shift, latitude) for longitude, latitude in ring]
        part = _clipped(_clipped(moved, 180.0, 1.0), -180.0, -1.0)
        # Skip parts that only touch the antimeridian: they have no area.
        if len(part) > 3 and len({longitude for longitude, _ in part}) > 1:
            parts.append([_rounded(longitude, latitude) for longitude, latitude in part])
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts}
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _rounded(longitude: float, latitude: float) -> list[float]:
    """Round to a centimeter; Section 11.2 of RFC 7946 advises against false precision."""
    return [round(longitude, 7), round(latitude, 7)]


def _clipped(ring: Ring, edge: float, sign: float) -> Ring:
    """Clip a closed ring to sign * longitude <= sign * edge (Sutherland & Hodgman 1974)."""
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
    """Predicts where images were taken.

    Args:
        runtime: Runs the network; ``load`` and ``from_task`` make one.
        answer: "cell" predicts the mean position of the best cell's photos, "mode" the position of
            the highest density.
        five_crop: Average over five parts of each image; the runtime must support it.

    Raises:
        DataError: The metadata of the model do not hold its cells.
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
                f"the metadata of the model hold no valid cells ({error}). Export it again."
            ) from error
        self.answer: Answer = answer
        self.five_crop = five_crop
        self.crop_fraction = details.get("crop_fraction")
        self._decoder = Decoder(Partition(table, "cells"), answer, levels=calibration.levels)

    @staticmethod
    def task_class() -> "type[GeolocationTask]":
        """See ``Predictor``."""
        from ...heads.geolocation.task import GeolocationTask

        return GeolocationTask

    @classmethod
    def describe(cls, task: "GeolocationTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``; the details hold the cells and their calibration.

        Raises:
            DataError: The task has no cells.
        """
        crop = task.metadata.get("crop_fraction")
        details = {
            "cells": cells_to_plain(task.partitions[-1].table),
            "calibration": task.calibration.to_plain(),
            "crop_fraction": crop,
        }
        return ModelMetadata(
            cls.job, size_hw, dict(task.categories), dict(_OUTPUTS), preparation=cropped(crop),
            details=details,
        )  # fmt: skip

    @staticmethod
    def adapted(task: "GeolocationTask", prepare: "Prepare") -> "nn.Module":
        """See ``Predictor``: the whole task, because it applies its calibration to the scores."""
        copied = cast("GeolocationTask", prepare(task))
        copied.five_crop_hw = None
        return copied

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
        """See ``Predictor``; ``answer`` and, of checkpoints, ``five_crop`` as for the class."""
        if not five_crop:
            model = super().load(path, device, size_hw, trust)
            return model if answer == "cell" else cls(model.runtime, answer)
        path = cls.find(path, size_hw)
        if path.suffix != CHECKPOINT_SUFFIX:
            raise DataError(f"{path}: an exported file has no five crops; use the checkpoint.")
        try:
            from ...heads.checkpoint import load_task
        except ModuleNotFoundError as error:
            raise whole_install(f"{path}: a checkpoint", error) from error

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
        """Make a geolocator of a copy of a trained task; the options are those of ``load``.

        Raises:
            DataError: There is no such device, the input size is unknown, or the task has no cells.
        """
        from .torch import run_task

        runtime = run_task(cls, task, device, size_hw)
        cast("GeolocationTask", runtime.network.network).five_crop_hw = (
            runtime.metadata.size_hw if five_crop else None
        )
        return cls(runtime, answer, five_crop)

    @property
    def partition(self) -> Partition:
        """The cells that the network distinguishes."""
        return self._decoder.partition

    def __call__(  # type: ignore[override]
        self,
        images: ImageLike | Iterable[ImageLike],
        top: int = 5,
        batch_size: int = 16,
    ) -> "LocationResult | list[LocationResult]":
        """Predict positions; ``top`` is the maximum number of places. See ``Predictor``."""
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
        """Locate images one after the other. See ``Predictor``; ``top`` as in calling."""
        if top < 1:
            raise DataError(f"top={top}: must be at least 1")
        return super().stream(images, batch_size, strict, top=top)

    def prepare(self, image: ImageSource) -> Prepared:
        """See ``Predictor``; for five crops, the image is larger than the network's input."""
        if not self.five_crop:
            return super().prepare(image)
        pixels = image.read()
        height, width = (round(side * _FIVE_CROP_SCALE) for side in self.size_hw)
        resized = center_crop(pixels, (height, width), 1.0)
        return Prepared(resized, (pixels.shape[0], pixels.shape[1]))

    def draw(self, pixels: np.ndarray, result: LocationResult) -> np.ndarray:
        """See ``Predictor``: position and radii as a caption."""
        from ..drawing import draw_caption

        near = f"50 % within {result.radius_50_km:,.0f} km, 90 % {result.radius_90_km:,.0f} km"
        return draw_caption(pixels, [f"{result.latitude:.3f}, {result.longitude:.3f}", near])

    def decode(  # type: ignore[override]
        self,
        outputs: Mapping[str, np.ndarray],
        images: Sequence[tuple[ImageSource, Prepared]],
        *,
        top: int = 5,
    ) -> Iterator[LocationResult]:
        """See ``Predictor``."""
        probabilities = outputs["probabilities"]
        predicted = self._decoder(probabilities)
        table = self.partition.table
        for row, (image, _) in enumerate(images):
            best = np.argsort(-probabilities[row], kind="stable")[:top].tolist()
            places = tuple(
                Place(latitude, longitude, probability, str(table.tokens[cell]), cell)
                for cell, (latitude, longitude), probability in zip(
                    best, table.latlng_deg[best].tolist(), probabilities[row, best].tolist(),
                    strict=True,
                )
            )  # fmt: skip
            latitude, longitude = predicted.latlng_deg[row].tolist()
            radius_50_km, radius_90_km = predicted.radii_km[row].tolist()
            yield LocationResult(
                latitude, longitude, radius_50_km, radius_90_km, places, self.partition, image
            )


def cells_to_plain(table: CellTable) -> dict[str, list]:
    """Return a table of cells for JSON; unknown spreads are null."""
    return {
        "tokens": list(table.tokens),
        "latlng_deg": table.latlng_deg.tolist(),
        "photos": table.photos.tolist(),
        "spread_km": [None if np.isnan(km) else km for km in table.spread_km.tolist()],
    }


def cells_from_plain(plain: dict[str, list]) -> CellTable:
    """Return the table that ``cells_to_plain`` was given."""
    return CellTable(
        tuple(plain["tokens"]),
        np.array(plain["latlng_deg"], np.float64).reshape(-1, 2),
        np.array(plain["photos"], np.int64),
        np.array(plain["spread_km"], np.float64),  # None becomes NaN
    )
