"""What was measured as a picture: a panel for each figure, a bar for each side."""

import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .measuring import Figures

_COLOURS = ("#1f5fa8", "#d1622b", "#3a8f5c", "#8a5bb0", "#b08a1e", "#5a6b78")
_LABEL_WIDTH = 24
_PANELS: tuple[tuple[str, Callable[[Figures], float | None], str], ...] = (
    ("one picture (ms)", lambda row: 1e3 * row.latency_s, "{:.1f}"),
    ("in batches (pictures/s)", lambda row: row.pictures_per_s, "{:.0f}"),
    ("peak memory (MB)", lambda row: row.start.peak_bytes / 1e6, "{:.0f}"),
    ("cold start (s)", lambda row: row.start.cold_start_s, "{:.2f}"),
    ("share of the float32 ceiling (%)", lambda row: _percent(row.share), "{:.0f}"),
)
"""Title of a panel, its figure, and how that is written."""


def draw(figures: Sequence[Figures], title: str) -> Figure:
    """Draw a panel of horizontal bars for each figure that any side has.

    A side without it has no bar there.

    Args:
        figures: What was measured of each side; the first is on top.
        title: A line above all.

    Returns:
        The figure, made without pyplot, so that nobody's plots are touched.
    """
    columns = [
        (name, [value_of(row) for row in figures], shape) for name, value_of, shape in _PANELS
    ]
    columns = [column for column in columns if any(value is not None for value in column[1])]
    height = 1.2 + 0.5 * len(figures)
    figure = Figure(figsize=(3.2 * len(columns), height), dpi=120, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (name, values, shape) in zip(panels, columns, strict=True):
        _draw_bars(axes, values, shape)
        axes.set_title(name, fontsize="medium")
    labels = [textwrap.fill(row.side.title, _LABEL_WIDTH) for row in figures]
    panels[0].set_yticks(range(len(figures)), labels)
    panels[0].invert_yaxis()
    return figure


def _draw_bars(axes: Axes, values: Sequence[float | None], shape: str) -> None:
    colours = [_COLOURS[place % len(_COLOURS)] for place in range(len(values))]
    bars = axes.barh(range(len(values)), [value or 0.0 for value in values], color=colours)
    axes.bar_label(
        bars, ["" if value is None else shape.format(value) for value in values], padding=3
    )
    axes.margins(x=0.25)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
