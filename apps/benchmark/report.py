"""``mobilevision benchmark``: measurement, and the report as a table, a chart and JSON."""

import json
import os
import platform
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.images import ImageFile
from ..drawing import PALETTE, write_figure
from ..export.exporting import made_up_image
from . import loader
from .backends import check_engine, others, sides_of
from .measuring import WARM_UP, Figures, Measured, Settings, measure
from .processes import RULE

_LABEL_WIDTH = 24
_PANELS: tuple[tuple[str, Callable[[Figures], float | None], str], ...] = (
    ("one image (ms)", lambda row: 1e3 * row.latency_s, "{:.1f}"),
    ("in batches (images/s)", lambda row: row.pictures_per_s, "{:.0f}"),
    ("peak memory (MB)", lambda row: row.start.peak_bytes / 1e6, "{:.0f}"),
    ("cold start (s)", lambda row: row.start.cold_start_s, "{:.2f}"),
    ("share of the float32 ceiling (%)", lambda row: row.share and 100 * row.share, "{:.0f}"),
)
"""Title of a panel, its value, and the format of the value."""


def draw(figures: Sequence[Figures], title: str) -> Figure:
    """Draw a panel of horizontal bars for each value that any side has, the first side on top."""
    columns = [(name, [value(row) for row in figures], shape) for name, value, shape in _PANELS]
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
    colors = [PALETTE[place % len(PALETTE)] for place in range(len(values))]
    bars = axes.barh(range(len(values)), [value or 0.0 for value in values], color=colors)
    labels = ["" if value is None else shape.format(value) for value in values]
    axes.bar_label(bars, labels, padding=3)
    axes.margins(x=0.25)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


_PACKAGES = (
    *("mobilevision", "torch", "torchvision", "onnxruntime", "openvino", "executorch"),
    *("timm", "facenet-pytorch", "numpy"),
)
_COLUMNS = ("ms", "quartiles", "images/s", "peak MB", "start s", "network ms", "of ceiling")
_FEWEST_SHARE = 0.7


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine: the processor, its cores, the number of threads, versions."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor."""
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def as_text(
    measured: Measured, settings: Settings, image_hw: tuple[int, int], skipped: dict[str, str]
) -> str:
    """Format the report as a table with the conditions of the measurement and what was left out."""
    place = machine(settings.threads)
    rounds = measured.rounds
    total = len(rounds.readings)
    speeds = measured.products.items()
    products = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in speeds)
    lines = [
        f"{place['cpu']}, {place['cores']} cores, {settings.threads} thread(s)",
        ", ".join(f"{name} {number}" for name, number in place["versions"].items()),
        f"one image of {image_hw[1]}x{image_hw[0]} px, uint8 RGB; batches of "
        f"{settings.batch}; ceiling {measured.ceiling / 1e9:.0f} GFLOPS in float32, the fastest "
        f"product of {loader.SIDE}x{loader.SIDE} matrices before the rounds: {products}",
        f"medians of {len(rounds.kept)} rounds after {WARM_UP} to warm up; "
        f"{rounds.dropped} of {total} dropped:",
        f"  {RULE}",
        "",
        *_table(measured.figures),
    ]
    notes = {row.side.title: row.side.note for row in measured.figures if row.side.note}
    if notes or skipped:
        lines.append("")
    lines += [f"{title}: {note}" for title, note in notes.items()]
    lines += [f"{title}: left out: {why}" for title, why in skipped.items()]
    above = [row.side.title for row in measured.figures if (row.share or 0) > 1]
    doubt = doubts(rounds.dropped, total, above)
    lines += ["", *doubt] if doubt else []
    return "\n".join(lines)


def doubts(dropped: int, total: int, above: Sequence[str]) -> list[str]:
    """Return warnings about the reliability of the figures; a constant load is not noticed.

    ``above`` are the titles of the sides whose network is faster than the matrix ceiling.
    """
    found = []
    if total - dropped < _FEWEST_SHARE * total:
        found.append("Many rounds were dropped: the machine was not quiet. Measure again.")
    if above:
        found.append(
            f"Above the ceiling: {'; '.join(above)}. So the matrix product behind it is not the "
            "fastest calculation that this machine can do in float32: shares compare the networks "
            "with each other and not with the machine's limit."
        )
    return found


def _table(figures: Sequence[Figures]) -> list[str]:
    compared = list(figures[0].faster)
    left = max(len(row.side.title) for row in figures) + 2
    width = 12
    lines = [f"{'':<{left}}" + "".join(f"{name:>{width}}" for name in _COLUMNS)]
    lines[0] += "".join(f"{f'[{number}]':>9}" for number in range(1, len(compared) + 1))
    for row in figures:
        first, third = (f"{1e3 * each:.3g}" for each in row.latency_quartiles_s)
        cells = (
            f"{1e3 * row.latency_s:.2f}",
            f"{first}-{third}",
            _or_dash(row.pictures_per_s, "{:.1f}"),
            f"{row.start.peak_bytes / 1e6:.0f}",
            f"{row.start.cold_start_s:.2f}",
            _or_dash(None if row.network_s is None else 1e3 * row.network_s, "{:.2f}"),
            _or_dash(row.share, "{:.0%}"),
        )
        times = "".join(f"{f'{row.faster[title]:.2f}x':>9}" for title in compared)
        line = "".join(f"{cell:>{width}}" for cell in cells)
        lines.append(f"{row.side.title:<{left}}{line}{times}")
    lines.append("")
    for number, title in enumerate(compared, start=1):
        lines.append(f"[{number}] how many times longer {title} takes in the same round, median")
    return lines


def _or_dash(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def as_plain(
    measured: Measured, settings: Settings, image_hw: tuple[int, int], skipped: dict[str, str]
) -> dict[str, Any]:
    """Return the report as plain data, with every round; arguments as for ``as_text``."""
    rounds = measured.rounds
    return {
        "machine": machine(settings.threads),
        "protocol": {
            "picture_hw": list(image_hw),
            "batch": settings.batch,
            "calls_of_a_turn": settings.calls,
            "starts": settings.starts,
            "rounds": len(rounds.readings),
            "warm_up_rounds": WARM_UP,
            "dropped": rounds.dropped,
            "kept": rounds.kept,
            "rule": RULE,
            "reference_s": rounds.readings,
        },
        "ceiling_flops": measured.ceiling,
        "ceiling_products_flops": measured.products,
        "sides": [_side(row, number, measured) for number, row in enumerate(measured.figures)],
        "skipped": skipped,
    }


def _side(row: Figures, number: int, measured: Measured) -> dict[str, Any]:
    seconds = measured.rounds.seconds
    return {
        "name": row.side.name,
        "engine": row.side.engine,
        "note": row.side.note,
        "latency_s": row.latency_s,
        "latency_quartiles_s": list(row.latency_quartiles_s),
        "pictures_per_s": row.pictures_per_s,
        "peak_bytes": row.start.peak_bytes,
        "cold_start_s": row.start.cold_start_s,
        "network_s": row.network_s,
        "precision": row.side.precision,
        "mult_adds": row.side.mult_adds,
        "share_of_ceiling": row.share,
        "times_faster_than": row.faster,
        "rounds_s": {kind: took for (of, kind), took in seconds.items() if of == number},
    }


def benchmark(
    model: str | Path,
    against: Sequence[str],
    engine: str,
    image: np.ndarray,
    candidates: int,
    settings: Settings,
    out: Path,
) -> str:
    """Measure a model and its peers, write the report and return its table.

    The report is ``benchmark.json``, ``benchmark.txt`` and ``benchmark.png`` in the folder ``out``.
    For the other arguments see ``sides_of``, ``others`` and ``write_peer``.

    Raises:
        DataError: A model cannot be read or run, or an option is wrong.
    """
    check_engine(engine)
    size_hw = (image.shape[0], image.shape[1])
    with tempfile.TemporaryDirectory(prefix="mobilevision_") as temporary:
        folder = Path(temporary)
        print("preparing the models", file=sys.stderr)
        made = sides_of(model, engine, folder)
        peers = others(against, folder, candidates, image)
        steps = settings.steps([*made.sides, *peers])
        with tqdm(total=steps, desc="benchmark", unit="turn", smoothing=0) as bar:
            measured = measure(made.sides, peers, image, settings, folder, bar.update)
    text = as_text(measured, settings, size_hw, made.skipped)
    plain = as_plain(measured, settings, size_hw, made.skipped)
    title = f"{cpu_name()}, {settings.threads} thread(s), {size_hw[1]}x{size_hw[0]} px"
    write_atomically(out / "benchmark.json", json.dumps(plain, indent=2).encode())
    write_atomically(out / "benchmark.txt", f"{text}\n".encode())
    write_figure(draw(measured.figures, title), out / "benchmark.png")
    return text


def read_image(path: Path | None, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the image for all sides, (H, W, 3) uint8: a file resized, or a generated image.

    Raises:
        DataError: The file cannot be read, or the size is below 1.
    """
    if min(size_hw) < 1:
        raise DataError(f"--picture-size {size_hw[0]} {size_hw[1]}: both must be at least 1")
    if path is None:
        return made_up_image(size_hw)
    return cv2.resize(ImageFile(path).read(), size_hw[::-1], interpolation=cv2.INTER_AREA)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux alone
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)
