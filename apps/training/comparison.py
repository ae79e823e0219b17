"""Comparisons of recipes with the same budget: variants trained with several seeds, and tables.

A comparison is a YAML file::

    config: ../../configs/quickstart.yaml   # relative to this file, or the name of a recipe
    seeds: [1, 2, 3]
    metrics: [AP, AP50]                     # of the last evaluation; the default
    options:                                # of every run, as on the command line of `lightning`
      trainer.max_epochs: 8
    variants:                               # name: further options; differences are to the first
      baseline: {}
      mosaic:
        data.mosaic: {class_path: mobilevision.datasets.transforms.detection.Mosaic}
"""

import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...configs import find_config
from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically, write_atomically, write_csv
from ..costs.networks import cost_of
from .sweep import Outcome, Run

_ABSENT = "-"
_METRICS = ("*_metrics.json", "verification.json")
_KEYS = {"config", "seeds", "metrics", "options", "variants"}


@dataclass(frozen=True)
class Comparison:
    """A comparison of variants.

    Attributes:
        config: The configuration of all runs.
        seeds: Seeds of each variant, for network, order and augmentation.
        metrics: Names in the ``*_metrics.json`` or ``verification.json`` of a training; differences
            are taken of the first.
        options: Values of options of ``lightning``, for all runs.
        variants: Further options by name; the others are compared to the first.
    """

    config: Path
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    options: dict[str, Any]
    variants: dict[str, dict[str, Any]]


class Result(NamedTuple):
    """The result of a run."""

    variant: str
    seed: int
    metrics: dict[str, float]
    """The comparison's metrics by name; empty if the run failed."""
    minutes: float
    """Wall-clock time of its process, including start and evaluation."""
    params: int | None
    """Parameters of the network; None if the run left no checkpoint from which to build it."""
    mult_adds: int | None
    """Mult-adds for one image; None likewise."""
    directory: Path
    """Directory of its newest version, or of the run."""
    fault: str
    """Why there are no metrics; empty if there are."""


def read_comparison(path: Path) -> Comparison:
    """Read a comparison.

    Raises:
        DataError: The file is absent or no YAML, or an entry is missing, unknown or of a wrong
            kind.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a YAML file of variants") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: has to be a mapping with the entries config and variants")
    unknown = set(content) - _KEYS
    if unknown:
        raise DataError(f"{path}: unknown entries {sorted(unknown)}; known are {sorted(_KEYS)}")
    variants = content.get("variants")
    if not isinstance(variants, dict) or not variants:
        raise DataError(f"{path}: variants has to map at least one name to options")
    read = {str(name): _options(path, str(name), value) for name, value in variants.items()}
    wrong = [name for name in read if not name or name in {".", ".."} or "/" in name]
    if wrong:
        raise DataError(f"{path}: {wrong} cannot be folders; rename these variants")
    config = content.get("config")
    if not isinstance(config, str):
        raise DataError(f"{path}: config has to name a configuration, not {config!r}")
    beside = path.parent / config
    try:
        config = beside if beside.is_file() else find_config(config)
    except DataError as error:
        raise DataError(f"{path}: config: {error}") from error
    return Comparison(
        config=config,
        seeds=check_seeds(content.get("seeds", [1]), path),
        metrics=tuple(content.get("metrics", ("AP", "AP50"))),
        options=_options(path, "options", content.get("options")),
        variants=read,
    )


def check_seeds(seeds: Any, source: Any) -> tuple[int, ...]:
    """Return seeds as a tuple.

    Raises:
        DataError: They are not different integers of at least 0; the message starts with
            ``source``.
    """
    listed = isinstance(seeds, (list, tuple))
    good = listed and all(type(each) is int and each >= 0 for each in seeds)
    if not good or not seeds or len(set(seeds)) < len(seeds):
        raise DataError(f"{source}: seeds={seeds!r}: give different whole numbers of at least 0")
    return tuple(seeds)


def _options(path: Path, name: str, value: Any) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        what = f"{name} has to map options of `lightning` to values, not {value!r}"
        raise DataError(f"{path}: {what}")
    return value


def plan(comparison: Comparison, out: Path) -> list[Run]:
    """List the runs, seed by seed, so that an interrupted comparison has complete seeds.

    Each has the directory ``out/VARIANT/seed_N``.
    """
    runs = []
    for seed, (name, options) in itertools.product(comparison.seeds, comparison.variants.items()):
        settings = [
            ("trainer.enable_progress_bar", False),
            ("seed_everything", seed),
            ("data.seed", seed),
            *comparison.options.items(),
            *options.items(),
        ]
        words = (  # JSON is YAML, which the command line reads
            f"--{option}={value if isinstance(value, str) else json.dumps(value)}"
            for option, value in settings
        )
        args = ("fit", "-c", str(comparison.config), *words)
        runs.append(Run(f"{name}, seed {seed}", args, out / name / f"seed_{seed}"))
    return runs


def collect(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Result]:
    """Return the results of the runs of ``plan``, in their order."""
    results = []
    names = itertools.product(comparison.seeds, comparison.variants)
    for (seed, variant), outcome in zip(names, outcomes, strict=True):
        directory = outcome.version or outcome.run.directory
        metrics, fault = {}, "the training failed"
        if outcome.succeeded:
            metrics, fault = _metrics(directory, comparison.metrics)
        values = (outcome.seconds / 60, *_cost(directory), directory, fault)
        results.append(Result(variant, seed, metrics, *values))
    return results


def _metrics(directory: Path, wanted: Sequence[str]) -> tuple[dict[str, float], str]:
    """Return the metrics of a run, and the fault if they are not there."""
    found: dict[str, Any] = {}
    for path in sorted(path for name in _METRICS for path in directory.glob(name)):
        found |= json.loads(path.read_text())
    missing = [name for name in wanted if not isinstance(found.get(name), (int, float))]
    if missing:
        return {}, f"no {', '.join(missing)} in {' or '.join(_METRICS)} of {directory}"
    return {name: float(found[name]) for name in wanted}, ""


def _cost(directory: Path) -> tuple[int | None, int | None]:
    """Count the parameters and mult-adds of a run's network, at the size of its images."""
    checkpoint = next(directory.glob("checkpoints/*.ckpt"), None)
    if checkpoint is None:
        return None, None
    try:
        _, _, cost = cost_of(None, checkpoint)
    except DataError as error:
        print(f"not counted: {error}", file=sys.stderr)
        return None, None
    return cost.params, cost.mult_adds


def mean(values: Sequence[float]) -> float:
    """Return the mean of numbers, NaN if there are none."""
    return statistics.fmean(values) if values else math.nan


def differences(results: Sequence[Result], variant: str, first: str, metric: str) -> list[float]:
    """Return by how much a variant exceeds the first, for each seed that both have finished."""
    values, base = (
        {row.seed: row.metrics[metric] for row in results if row.variant == name and row.metrics}
        for name in (variant, first)
    )
    return [values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())]


def write_tables(comparison: Comparison, results: Sequence[Result], out: Path) -> str:
    """Write ``comparison.md``, ``.csv`` and ``.json`` to a folder; return the Markdown."""
    table = markdown(comparison, results)
    write_atomically(out / "comparison.md", table.encode())
    write_atomically(out / "comparison.json", _json(comparison, results).encode())
    names = ["variant", "seed", *comparison.metrics]
    with replaced_atomically(out / "comparison.csv") as temporary:
        heading = [*names, "minutes", "params", "mult_adds", "run", "fault"]
        write_csv(temporary, heading, (_cells(comparison, row) for row in results))
    return table


def markdown(comparison: Comparison, results: Sequence[Result]) -> str:
    """Format a row for each variant: metrics of the seeds, their mean and difference, costs."""
    seeds = ", ".join(map(str, comparison.seeds))
    first = next(iter(comparison.variants))
    header = ["variant"]
    for metric in comparison.metrics:
        header += [metric, f"{metric} of seeds {seeds}"]
    header += [f"{comparison.metrics[0]} above {first}", "minutes", "params", "mult-adds"]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines += [_row(comparison, results, name, first) for name in comparison.variants]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(comparison: Comparison, results: Sequence[Result], variant: str, first: str) -> list[str]:
    rows = [row for row in results if row.variant == variant]
    cells = [variant]
    for metric in comparison.metrics:
        values = [row.metrics.get(metric) for row in rows]
        cells.append(_number(mean([value for value in values if value is not None])))
        cells.append(" ".join("failed" if value is None else _number(value) for value in values))
    above = mean(differences(results, variant, first, comparison.metrics[0]))
    cells.append(_ABSENT if variant == first or math.isnan(above) else f"{above:+.4f}")
    cells.append(_number(mean([row.minutes for row in rows if row.metrics]), 1))
    for name, digits in (("params", 2), ("mult_adds", 1)):
        counts = {getattr(row, name) for row in rows} - {None}
        cells.append(", ".join(f"{count / 1e6:.{digits}f} M" for count in counts) or _ABSENT)
    return cells


def _number(value: float, digits: int = 4) -> str:
    return _ABSENT if math.isnan(value) else f"{value:.{digits}f}"


def _cells(comparison: Comparison, row: Result) -> list[Any]:
    metrics = (row.metrics.get(name) for name in comparison.metrics)
    counts = (f"{row.minutes:.3f}", row.params, row.mult_adds)
    return [row.variant, row.seed, *metrics, *counts, row.directory, row.fault]


def _json(comparison: Comparison, results: Sequence[Result]) -> str:
    content = {
        "config": str(comparison.config),
        "seeds": comparison.seeds,
        "metrics": comparison.metrics,
        "options": comparison.options,
        "variants": comparison.variants,
        "runs": [row._asdict() | {"directory": str(row.directory)} for row in results],
    }
    return json.dumps(content, indent=1) + "\n"
