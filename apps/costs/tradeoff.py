"""Plots of accuracy against cost, like Figures 4 and 5 of the MobileNet paper."""

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ..drawing import PALETTE, png_of

_MARKERS = ("o", "s", "^", "D", "v", "P")
_GRAY = "#666666"


class Result(NamedTuple):
    """The result of a trained network."""

    model: str
    """Its family; a line is fitted to each."""
    width_mult: float | None
    resolution: int | None
    """Side of the image in px."""
    mult_adds: float
    """For one image, in ones."""
    params: float
    accuracy: float
    """As in the file: a fraction of 1 or percent."""


def read_results(path: Path, accuracy: str | None = None) -> list[Result]:
    """Read a table of results.

    Args:
        path: ``.csv`` with a heading, or ``.json`` with a list of objects. Required are
            ``mult_adds``, ``params`` and the accuracy; ``model``, ``width_mult`` and
            ``resolution`` are optional. Further columns are ignored.
        accuracy: The column of the accuracy; None takes ``accuracy``, else ``top1``.

    Raises:
        DataError: The file cannot be read, is empty, or a row lacks a number or has a wrong one.
    """
    rows = _read_rows(path)
    if not rows:
        raise DataError(f"{path}: no rows, so there is nothing to plot")
    wanted = [accuracy] if accuracy else ["accuracy", "top1"]
    column = next((name for name in wanted if name in rows[0]), None)
    if column is None:
        raise DataError(f"{path}: no column {' or '.join(wanted)}; it has {', '.join(rows[0])}")
    results = []
    for number, cells in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        width_mult = _number(cells, "width_mult", where, needed=False)
        side = _number(cells, "resolution", where, needed=False)
        resolution = None if side is None else int(side)
        costs = [_positive(cells, name, where) for name in ("mult_adds", "params")]
        name, value = str(cells.get("model") or "MobileNet"), _number(cells, column, where) or 0.0
        results.append(Result(name, width_mult, resolution, *costs, accuracy=value))
    return results


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = path.suffix == ".json"
        rows = json.loads(text) if is_json else list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: a list of objects is wanted, one for each result")
    for number, row in enumerate(rows, start=1):
        if None in row:  # where DictReader puts what has no heading
            raise DataError(f"{path}, row {number}: has more cells than the heading names")
    return rows


def _number(cells: dict[str, Any], name: str, where: str, needed: bool = True) -> float | None:
    value = cells.get(name)
    if value in (None, "") and not needed:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: {name} is {value!r}, a number is wanted")
    return number


def _positive(cells: dict[str, Any], name: str, where: str) -> float:
    number = _number(cells, name, where) or 0.0
    if number <= 0:
        raise DataError(f"{where}: {name} is {number:g}, more than 0 is wanted")
    return number


def draw_tradeoff(results: Sequence[Result], title: str, accuracy_label: str) -> Figure:
    """Draw two panels: accuracy over mult-adds (Figure 4) and over parameters (Figure 5).

    Colors are resolutions, markers width multipliers; results without them are gray stars with
    the name of their model. Both costs have logarithmic axes. The first panel has a dashed line
    fitted to each family of models; in the second, results of one resolution are joined, since
    parameters do not depend on it. Accuracies are in percent if none is above 1.
    """
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    panels = figure.subplots(1, 2, sharey=True)
    percent = all(0 <= result.accuracy <= 1 for result in results)
    if percent:
        results = [each._replace(accuracy=100 * each.accuracy) for each in results]
    resolutions = _known(result.resolution for result in results)
    widths = _known(result.width_mult for result in results)
    colors = dict(zip(resolutions, itertools.cycle(PALETTE)))
    styles = _Styles(colors, dict(zip(widths, itertools.cycle(_MARKERS))))
    _draw_panel(panels[0], results, "mult_adds", styles)
    _draw_panel(panels[1], results, "params", styles)
    lines = _draw_fits(panels[0], results)
    _draw_resolutions(panels[1], results, styles)
    panels[0].set_xlabel("mult-adds of one image (logarithmic)")
    panels[1].set_xlabel("parameters (logarithmic)")
    panels[0].set_ylabel(f"{accuracy_label} (%)" if percent else accuracy_label)
    handles = [*styles.handles(), *lines]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize="small")
    return figure


class _Styles(NamedTuple):
    """The colors of resolutions and the markers of width multipliers."""

    colors: dict[int, str]
    markers: dict[float, str]

    def handles(self) -> list[Line2D]:
        """Return the entries of the legend: the colors as lines, the markers in gray."""
        lines = [Line2D([], [], color=color, linewidth=3, label=f"{resolution} px")
                 for resolution, color in self.colors.items()]  # fmt: skip
        gray: dict[str, Any] = {"color": _GRAY, "linestyle": "none"}
        for width, marker in self.markers.items():
            lines.append(Line2D([], [], marker=marker, label=f"width {width:g}", **gray))
        return lines


def _draw_panel(axes: Axes, results: Sequence[Result], cost: str, styles: _Styles) -> None:
    for result in results:
        color, marker = _GRAY, "*"
        if result.resolution is not None:
            color = styles.colors[result.resolution]
        if result.width_mult is not None:
            marker = styles.markers[result.width_mult]
        at = (getattr(result, cost), result.accuracy)
        size = 13 if marker == "*" else 8
        axes.plot(*at, marker, color=color, markersize=size, markeredgecolor="white")
        if result.width_mult is None:
            place = {"xytext": (6, 4), "textcoords": "offset points"}
            axes.annotate(result.model, at, **place, fontsize="small")
    axes.set_xscale("log")
    axes.margins(x=0.08)
    costs = [getattr(result, cost) for result in results]
    wide = max(costs) > 100 * min(costs)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_fits(axes: Axes, results: Sequence[Result]) -> list[Line2D]:
    """Draw accuracy = offset + slope * log10(cost), the law of the paper's Figure 4."""
    lines = []
    for family in dict.fromkeys(result.model for result in results):
        own = [(result.mult_adds, result.accuracy) for result in results if result.model == family]
        costs, accuracies = np.transpose(own)
        if len(set(costs)) < 2:
            continue
        slope, offset = np.polyfit(np.log10(costs), accuracies, 1)
        ends = np.array([min(costs), max(costs)])
        label = f"{family}: {slope:+.1f} points for\nten times the mult-adds"
        fitted = offset + slope * np.log10(ends)
        lines += axes.plot(ends, fitted, "--", color=_GRAY, label=label, zorder=1)
    return lines


def _draw_resolutions(axes: Axes, results: Sequence[Result], styles: _Styles) -> None:
    for resolution, color in styles.colors.items():
        for family in dict.fromkeys(result.model for result in results):
            own = [row for row in results if (row.resolution, row.model) == (resolution, family)]
            points = sorted((row.params, row.accuracy) for row in own)
            if points:
                axes.plot(*np.transpose(points), color=color, linewidth=1, alpha=0.5, zorder=1)


def _known(values: Iterable[Any]) -> list[Any]:
    return sorted({value for value in values if value is not None}, reverse=True)


def _short(value: float) -> str:
    for size, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{prefix}"
    return f"{value:g}"


def write_tradeoff(results: Path, out: Path, accuracy: str | None = None) -> int:
    """Plot a file of results as PNG; return the number of results.

    Raises:
        DataError: As for ``read_results``.
        OSError: The image cannot be written.
    """
    rows = read_results(results, accuracy)
    figure = draw_tradeoff(rows, "accuracy against cost", accuracy or "accuracy")
    write_atomically(out, png_of(figure))
    return len(rows)
