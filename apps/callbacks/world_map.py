"""Maps of the world: cells of a partition, and predicted against true positions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ...datasets.errors import DataError
from ...datasets.files import read_json
from ...datasets.geolocation.cells import Partition
from ...datasets.geolocation.geodesy import distance_km, to_latlng_deg, unit_vectors
from ...heads.geolocation.task import GeolocationTask
from .images import EvaluationPlot

_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_LAND = "#9aa5ad"
_LAND_ON_CELLS = "#4a5a66"
_STEPS = 24
_MOST_LINES = 1500
_SMALL_DEG = 1.5
"""Cells of less height would be invisible on the map; they get a dot."""


def read_coastline(path: str | Path | None) -> list[np.ndarray]:
    """Read lines (P, 2) of longitude and latitude in degrees.

    Args:
        path: A GeoJSON with lines or polygons, such as Natural Earth's 110m coastline. None takes
            cartopy's if it is installed with its data, else there are no lines.

    Raises:
        DataError: The file cannot be read, or has no lines.
    """
    if path is None:
        return _cartopy_lines()
    path = Path(path)
    content = read_json(path)
    try:
        lines = list(_lines(content))
    except _MALFORMED as error:
        raise DataError(f"{path}: not a readable GeoJSON file ({error})") from error
    if not lines:
        raise DataError(f"{path}: no lines or polygons in it")
    return lines


def _lines(node: dict[str, Any]) -> Any:
    for part in node.get("features") or node.get("geometries") or ():
        yield from _lines(part)
    if isinstance(node.get("geometry"), dict):
        yield from _lines(node["geometry"])
    depths = {"LineString": 0, "MultiLineString": 1, "Polygon": 1, "MultiPolygon": 2}
    kind = str(node.get("type"))
    if kind in depths:
        nested: Sequence[Any] = [node.get("coordinates")]
        for _ in range(depths[kind]):
            nested = [line for each in nested for line in each]
        yield from (np.array([point[:2] for point in line], np.float64) for line in nested)


def _cartopy_lines() -> list[np.ndarray]:
    """Read cartopy's coastline if it is on disk; nothing is downloaded."""
    try:
        from cartopy import config  # type: ignore[import-not-found]
        from cartopy.io.shapereader import Reader  # type: ignore[import-not-found]
    except ImportError:
        return []
    inside = Path("shapefiles/natural_earth/physical/ne_110m_coastline.shp")
    for key in ("pre_existing_data_dir", "data_dir", "repo_data_dir"):
        if config.get(key) and (file := Path(config[key]) / inside).is_file():
            return [np.array(line.coords)[:, :2] for line in Reader(str(file)).geometries()]
    return []


def draw_partition(partition: Partition, coastline: Sequence[np.ndarray], title: str) -> Figure:
    """Draw cells, colored by their number of photos, on lines of ``read_coastline``."""
    figure, axes = _world(coastline, title, coast_on_top=True)
    outlines, values, small = [], [], []
    for index in range(len(partition)):
        ring = np.array(partition.polygon(index))
        if np.ptp(ring[:, 1]) < _SMALL_DEG:
            small.append(index)
        for shift in (-360, 0, 360):  # a cell across the antimeridian is drawn on both sides
            moved = ring + np.array((shift, 0))
            if moved[:, 0].max() > -180 and moved[:, 0].min() < 180:
                outlines.append(moved)
                values.append(max(1, int(partition.table.photos[index])))
    cells = PolyCollection(outlines, edgecolors="#30404c", linewidths=0.3, alpha=0.75, zorder=2)
    cells.set_array(np.array(values, np.float64))
    norm = LogNorm(vmin=min(values), vmax=max(2, *values))
    cells.set_norm(norm)
    axes.add_collection(cells)
    dots = partition.latlng_deg[small]
    photos = np.maximum(partition.table.photos[small], 1)
    axes.scatter(
        dots[:, 1], dots[:, 0], s=14, c=photos, norm=norm, edgecolors="#30404c", linewidths=0.3,
        zorder=4,
    )  # fmt: skip
    numbers = StrMethodFormatter("{x:,.0f}")
    bar = figure.colorbar(cells, ax=axes, shrink=0.7, pad=0.01, label="photos in the cell")
    bar.ax.yaxis.set_major_formatter(numbers)
    bar.ax.yaxis.set_minor_formatter(numbers)
    return figure


def draw_predictions(
    truth_deg: np.ndarray, predicted_deg: np.ndarray, coastline: Sequence[np.ndarray], title: str
) -> Figure:
    """Draw true positions (N, 2) in degrees, and great circles to the predicted ones.

    Of more than 1,500 every n-th is drawn; the coastline is from ``read_coastline``.
    """
    figure, axes = _world(coastline, title)
    kept = slice(None, None, -(-len(truth_deg) // _MOST_LINES))
    truth, predicted = truth_deg[kept], predicted_deg[kept]
    error_km = distance_km(truth, predicted)
    lines = [line for pair in zip(truth, predicted, strict=True) for line in _great_circle(*pair)]
    axes.add_collection(LineCollection(lines, colors="#8a5bb0", linewidths=0.4, alpha=0.45))
    for low, high, color in (
        (0, 25, "#1b7f3b"),
        (25, 200, "#7fb83a"),
        (200, 750, "#e0b020"),
        (750, 2500, "#e0742b"),
        (2500, np.inf, "#b3202c"),
    ):
        near = (error_km > low) & (error_km <= high) if low else error_km <= high
        name = f"≤ {high:g} km" if np.isfinite(high) else f"> {low} km"
        axes.scatter(
            truth[near, 1], truth[near, 0], s=9, c=color, zorder=3, label=f"{name}: {near.sum():,}"
        )
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=5, frameon=False,
        title="true positions by error; lines lead to the predicted positions",
    )  # fmt: skip
    return figure


def _world(
    coastline: Sequence[np.ndarray], title: str, coast_on_top: bool = False
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(13, 6.9), dpi=110, layout="compressed")
    axes = figure.subplots()
    land = LineCollection(list(coastline), colors=_LAND, linewidths=0.7, zorder=1)
    if coast_on_top:
        land.set(zorder=3, color=_LAND_ON_CELLS)
    axes.add_collection(land)
    axes.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    axes.set_xticks(range(-180, 181, 30))
    axes.set_yticks(range(-90, 91, 30))
    axes.xaxis.set_major_formatter(lambda value, _: _degrees(value, "E", "W"))
    axes.yaxis.set_major_formatter(lambda value, _: _degrees(value, "N", "S"))
    axes.grid(color="#e4e4e0", linewidth=0.6, zorder=0)
    axes.set_title(title, fontweight="bold")
    return figure, axes


def _degrees(value: float, positive: str, negative: str) -> str:
    side = "" if value in (0, 180, -180) else f" {positive if value > 0 else negative}"
    return f"{abs(value):g}°{side}"


def _great_circle(start_deg: np.ndarray, end_deg: np.ndarray) -> list[np.ndarray]:
    """Return the great circle between two positions as lines (P, 2), cut at the antimeridian."""
    # Points on the straight chord, seen from the center of the Earth, lie on the great circle.
    first, last = unit_vectors(start_deg), unit_vectors(end_deg)
    share = np.linspace(0, 1, _STEPS)[:, None]
    chord = first * (1 - share) + last * share
    if np.linalg.norm(chord, axis=1).min() < 1e-6:  # antipodes: every great circle is as short
        chord += 1e-3 * np.cross(first, (0.0, 0.0, 1.0))
    points = to_latlng_deg(chord)[:, ::-1]
    jumps = np.flatnonzero(np.abs(np.diff(points[:, 0])) > 180) + 1
    return np.split(points, jumps)


class WorldMap(EvaluationPlot):
    """A callback that writes ``map.png`` to the run's folder after each evaluation.

    The task has to be a ``GeolocationTask``.

    Args:
        coastline: GeoJSON of coastlines; null takes cartopy's if it is installed, else draws none.
    """

    file_name = "map.png"
    label = "Map"

    def __init__(self, coastline: str | None = None) -> None:
        super().__init__()
        self.coastline = coastline
        self._lines: list[np.ndarray] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Get the run's folder, which all processes have to do together; read the coastline."""
        super().setup(trainer, pl_module, stage)
        self._lines = read_coastline(self.coastline)

    def figure(self, trainer: Trainer, task: GeolocationTask) -> Figure | None:
        """Draw the predictions of the newest evaluation."""
        found = task.evaluator.gathered
        if found is None:
            return None
        stage = TrainerFn(trainer.state.fn)
        when = f"epoch {trainer.current_epoch}" if stage == TrainerFn.FITTING else str(stage.value)
        median = float(np.median(found.error_km))
        title = f"{task.evaluator.dataset} · {when} · median error {median:,.1f} km"
        return draw_predictions(found.truth_deg, found.latlng_deg, self._lines or [], title)
