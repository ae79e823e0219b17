"""Widths and resolutions of one configuration: trained, measured, counted, drawn."""

import csv
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...heads.classification.task import ClassificationTask
from ..costs.networks import cost_of
from ..costs.tradeoff import write_tradeoff
from .grid import Outcome, Run, report_failures, run_grid

RESULTS_FILE = "results.csv"
FIGURE_FILE = "tradeoff.png"


class Point(NamedTuple):
    """One trained network of a sweep: a row of ``results.csv``."""

    width_mult: float
    resolution: int
    """Side of the picture in px."""
    mult_adds: int
    """For one picture."""
    params: int
    top1: float
    top5: float
    run: str
    """The run's own directory."""


def sweep(
    config: Path,
    width_mults: Sequence[float],
    resolutions: Sequence[int],
    out: Path,
    overrides: Sequence[str] = (),
) -> tuple[list[Point], int]:
    """Train a configuration at each width and resolution; finished runs are not repeated.

    Each run has a directory below ``out`` with the configuration that it got. At the end there are
    ``results.csv`` and, from two results on, ``tradeoff.png``.

    Args:
        config: A YAML whose backbone has a ``width_mult`` and whose data a ``size_hw``.
        width_mults: Width multipliers.
        resolutions: Sides of square pictures in px.
        out: Folder for everything.
        overrides: Further options of ``lightning fit``.

    Returns:
        The results by rising cost, and the number of runs that failed; these are reported on
        stderr.

    Raises:
        DataError: The configuration cannot be read or has no such options.
    """
    settings = _read(config)
    runs: list[Run] = []
    for width_mult, resolution in itertools.product(width_mults, resolutions):
        name = f"w{width_mult:g}_r{resolution}"
        path = out / name / "sweep.yaml"
        changed = changed_settings(settings, width_mult, resolution, config)
        text = yaml.safe_dump(changed, sort_keys=False).encode()
        if not path.is_file() or path.read_bytes() != text:
            write_atomically(path, text)
        runs.append(Run(name, ("fit", "-c", str(path), *overrides), out / name))
    outcomes = run_grid(runs, "sweep")
    grid = list(itertools.product(width_mults, resolutions))
    points = [_point(*each, done) for each, done in zip(grid, outcomes, strict=True)
              if done.succeeded]  # fmt: skip
    points.sort(key=lambda point: point.mult_adds)
    if points:
        write_atomically(out / RESULTS_FILE, _to_csv(points).encode())
        write_tradeoff(out / RESULTS_FILE, out / FIGURE_FILE, "top1")
    return points, report_failures(outcomes)


def changed_settings(
    settings: dict[str, Any], width_mult: float, resolution: int, source: Path
) -> dict[str, Any]:
    """A copy with another width of the network and another size of the pictures.

    Every ``width_mult`` of the network and every ``size_hw`` of the data is set, those of
    transforms as well.

    Raises:
        DataError: There is none of one of them.
    """
    changed = yaml.safe_load(yaml.safe_dump(settings))
    widths = _set_all(_at(changed, "model", "init_args", "network"), "width_mult", width_mult)
    sizes = _set_all(_at(changed, "data"), "size_hw", [resolution, resolution])
    for name, count, where in (("width_mult", widths, "model"), ("size_hw", sizes, "data")):
        if not count:
            raise DataError(f"{source}: no {name} is written under {where}, so it cannot be varied")
    return changed


def _set_all(settings: Any, name: str, value: Any) -> int:
    """Set a key wherever it occurs below ``settings``; how often that was."""
    if isinstance(settings, list):
        return sum(_set_all(each, name, value) for each in settings)
    if not isinstance(settings, dict):
        return 0
    count = int(name in settings)
    if count:
        settings[name] = value
    return count + sum(_set_all(v, name, value) for k, v in settings.items() if k != name)


def _at(settings: Any, *path: str) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path}: not a configuration (a YAML with model and data)")
    return settings


def _point(width_mult: float, resolution: int, outcome: Outcome) -> Point:
    version = outcome.version
    measured = (version or outcome.run.directory) / ClassificationTask.metrics_file
    checkpoint = measured.parent / "checkpoints" / "last.ckpt"
    for path in (measured, checkpoint):
        if not path.is_file():
            raise DataError(
                f"{path}: the run {outcome.run.name} left none. A sweep needs a classifier that "
                "validates, and a ModelCheckpoint that keeps last.ckpt."
            )
    content = json.loads(measured.read_text())
    cost = cost_of(None, checkpoint, size_hw=(resolution, resolution))[2]
    return Point(
        width_mult,
        resolution,
        cost.mult_adds,
        cost.params,
        content["top1"],
        content["top5"],
        str(measured.parent),
    )


def _to_csv(points: Sequence[Point]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows(points)
    return text.getvalue()


def format_points(points: Sequence[Point]) -> str:
    """A table in plain text, at most 80 characters a line but for long names of runs."""
    lines = ["width  resolution  mult-adds (M)  params (M)   top-1   top-5  run"]
    lines += [
        f"{point.width_mult:>5g}  {point.resolution:>10}  {point.mult_adds / 1e6:>13.2f}  "
        f"{point.params / 1e6:>10.3f}  {point.top1:.4f}  {point.top5:.4f}  {point.run}"
        for point in points
    ]
    return "\n".join(lines)
