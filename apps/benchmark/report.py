"""What was measured, as a table and as JSON."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import gemm
from .measuring import LATENCY, NETWORK, THROUGHPUT, WARM_UP, Figures, Measured, Settings
from .protocol import RULE

_PACKAGES = (
    "mobilevision",
    "torch",
    "torchvision",
    "onnxruntime",
    "openvino",
    "executorch",
    "timm",
    "facenet-pytorch",
    "numpy",
)
_COLUMNS = ("ms", "quartiles", "pictures/s", "peak MB", "start s", "network ms", "of ceiling")
_FEWEST_SHARE = 0.7
_KINDS = (LATENCY, THROUGHPUT, NETWORK)


def machine(threads: int) -> dict[str, Any]:
    """What it was measured on: the processor, its cores, the threads used, versions."""
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
    """What the processor calls itself."""
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def as_text(
    measured: Measured,
    settings: Settings,
    picture_hw: tuple[int, int],
    skipped: dict[str, str],
) -> str:
    """Lay out a table with all that is needed to judge it.

    Args:
        measured: What was measured.
        settings: How.
        picture_hw: Height and width of the picture.
        skipped: What was left out -> why.
    """
    place = machine(settings.threads)
    rounds = measured.rounds
    total = len(rounds.readings)
    lines = [
        f"{place['cpu']}, {place['cores']} cores, {settings.threads} thread(s)",
        ", ".join(f"{name} {number}" for name, number in place["versions"].items()),
        f"one picture of {picture_hw[1]}x{picture_hw[0]} px, uint8 RGB; batches of "
        f"{settings.batch}; ceiling {measured.ceiling / 1e9:.0f} GFLOPS in float32, the fastest "
        f"product of {gemm.SIDE}x{gemm.SIDE} matrices before the rounds: {_products(measured)}",
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


def _products(measured: Measured) -> str:
    return ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in measured.products.items())


def doubts(dropped: int, total: int, above: Sequence[str]) -> list[str]:
    """Return what limits the trust in the figures; load that never changes drops no round.

    Args:
        dropped: Rounds that do not count.
        total: All rounds.
        above: Titles of the sides whose network is faster than the matrix ceiling.
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
        lines.append(
            f"{row.side.title:<{left}}" + "".join(f"{cell:>{width}}" for cell in cells) + times
        )
    lines.append("")
    for number, title in enumerate(compared, start=1):
        lines.append(f"[{number}] how many times longer {title} takes in the same round, median")
    return lines


def _or_dash(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def as_plain(
    measured: Measured,
    settings: Settings,
    picture_hw: tuple[int, int],
    skipped: dict[str, str],
) -> dict[str, Any]:
    """All of it as plain data, every round included; arguments as for ``as_text``."""
    rounds = measured.rounds
    return {
        "machine": machine(settings.threads),
        "protocol": {
            "picture_hw": list(picture_hw),
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
        "sides": [
            _side(row, number, measured) for number, row in enumerate(measured.figures)
        ],
        "skipped": skipped,
    }  # fmt: skip


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
        "rounds_s": {kind: seconds[number, kind] for kind in _KINDS if (number, kind) in seconds},
    }
