"""What says how probable each cell is: a trained task in torch, or an exported file."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...datasets.errors import DataError
from ...datasets.positions import CellTable
from ...heads.geolocation.calibration import Calibration
from ...heads.geolocation.cells import Partition
from ..engines.exported import open_for
from ..engines.runtime import RUNTIMES

if TYPE_CHECKING:
    from ..engines.runtime import Runtime


class GeolocationEngine(Protocol):
    """A network of geolocation that is ready to run."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        ...

    @property
    def partition(self) -> Partition:
        """The cells that are told apart."""
        ...

    @property
    def calibration(self) -> Calibration:
        """What is known about how far the probabilities can be trusted."""
        ...

    @property
    def crop_fraction(self) -> float | None:
        """Central part of a picture that is looked at; None is the whole picture, stretched."""
        ...

    @property
    def five_crop(self) -> bool:
        """Whether pictures are to be larger, and five parts of them are looked at."""
        ...

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, C) float32 of the cells for (B, h, w, 3) uint8 RGB."""
        ...


class ExportedGeolocation:
    """An exported file behind ``GeolocationEngine``.

    Args:
        runtime: What runs it.
        source: The file, for messages.

    Raises:
        DataError: The file does not say what the cells are.
    """

    five_crop = False

    def __init__(self, runtime: "Runtime", source: str) -> None:
        details = runtime.facts.details
        try:
            table = cells_from_plain(details["cells"])
            self.calibration = Calibration.from_plain(details.get("calibration"))
            self.crop_fraction: float | None = details.get("crop_fraction")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{source}: does not say what its cells are ({error}). Export it again."
            ) from error
        self.partition = Partition(table, source)
        self.size_hw = runtime.facts.size_hw
        self._runtime = runtime

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See ``GeolocationEngine``."""
        return self._runtime(images)["probabilities"]


def load_geolocation_engine(
    path: str | Path,
    device: str = "auto",
    size_hw: tuple[int, int] | None = None,
    five_crop: bool = False,
) -> GeolocationEngine:
    """Load a checkpoint of ``GeolocationTask``, or what ``mobilevision export`` made of one.

    Args:
        path: The file.
        device: "auto" takes an accelerator where there is one, else the CPU.
        size_hw: Height and width of the network's input; None takes those of training.
        five_crop: Average over the four corners and the centre of each picture.

    Raises:
        DataError: No such file or device, or no geolocator in it; the message says what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such model. `lightning fit -c configs/geolocation_quickstart.yaml` "
            "makes one on a generated world; none is published."
        )
    if path.suffix in RUNTIMES:
        if five_crop:
            raise DataError(
                f"{path}: an exported file looks at each picture once; five crops need the "
                "checkpoint."
            )
        return ExportedGeolocation(open_for("geolocation", path, device, size_hw), str(path))
    from ...heads.checkpoint import load_task
    from ...heads.geolocation.task import GeolocationTask
    from .torch_engine import TorchGeolocation

    task = load_task(path, GeolocationTask)
    if "cells" not in task.facts:
        raise DataError(f"{path}: has no cells, so it is no model of geolocation")
    return TorchGeolocation(task, size_hw, five_crop, device)


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
