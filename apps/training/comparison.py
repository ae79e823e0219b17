"""Recipes compared on the same budget: each variant with each seed, and a table of what they reach.

A comparison is a YAML file::

    config: ../../configs/quickstart.yaml   # seen from this file
    seeds: [1, 2, 3]
    metrics: [AP, AP50]                     # of the last evaluation; these are the default
    options:                                # of every run, as on the command line of `lightning`
      trainer.max_epochs: 8
    variants:                               # name: further options; differences are to the first
      baseline: {}
      mosaic:
        data.mosaic: {class_path: mobilevision.datasets.transforms.detection.Mosaic}
"""

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from .sweep import Outcome, Run

_KEYS = {"config", "seeds", "metrics", "options", "variants"}
_DEFAULT_METRICS = ("AP", "AP50")
_SEED_OPTIONS = ("seed_everything", "data.seed")


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        config: The configuration that all runs start from.
        seeds: Each variant is trained with each of them; network, order and augmentation follow.
        metrics: Names in the ``*_metrics.json`` that a training leaves; the first is what
            differences are taken of.
        options: Option of ``lightning`` to its value, for all runs.
        variants: Name to further options; the first is the one that the others are compared to.
    """

    config: Path
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    options: dict[str, Any]
    variants: dict[str, dict[str, Any]]


class Result(NamedTuple):
    """What one run reached."""

    variant: str
    seed: int
    metrics: dict[str, float]
    """By name, those of the comparison; empty where the run failed."""
    minutes: float
    """Wall-clock time of its process, start and evaluation included."""
    params: int | None
    """Of the network; None where the run left no checkpoint that says how it was made."""
    mult_adds: int | None
    """For one image, likewise."""
    directory: Path
    """Of its newest version, or the run's."""
    fault: str
    """Why there are no metrics; empty where there are."""


def read_comparison(path: Path) -> Comparison:
    """Read a comparison.

    Raises:
        DataError: The file is absent or no YAML, or an entry is missing, unknown or of a wrong
            kind; the message names it.
    """
    try:
        content = yaml.safe_load(path.read_text())
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
    if not isinstance(config, str) or not (path.parent / config).is_file():
        raise DataError(f"{path}: config: no such file {config!r}, seen from {path.parent}")
    return Comparison(
        config=path.parent / config,
        seeds=check_seeds(content.get("seeds", [1]), path),
        metrics=tuple(content.get("metrics", _DEFAULT_METRICS)),
        options=_options(path, "options", content.get("options")),
        variants=read,
    )


def check_seeds(seeds: Any, source: Any) -> tuple[int, ...]:
    """Seeds as a tuple.

    Raises:
        DataError: They are not different whole numbers of at least 0, or none; the message begins
            with ``source``.
    """
    good = isinstance(seeds, (list, tuple)) and all(
        type(seed) is int and seed >= 0 for seed in seeds
    )
    if not good or not seeds or len(set(seeds)) < len(seeds):
        raise DataError(f"{source}: seeds={seeds!r}: give different whole numbers of at least 0")
    return tuple(seeds)


def _options(path: Path, name: str, value: Any) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DataError(
            f"{path}: {name} has to map options of `lightning` to values, not {value!r}"
        )
    return value


def plan(comparison: Comparison, out: Path) -> list[Run]:
    """The runs, seed by seed, so that an interrupted comparison has compared something.

    Args:
        comparison: What to compare.
        out: Folder of all runs; each has ``out/VARIANT/seed_N``.
    """
    return [
        Run(f"{name}, seed {seed}", _words(comparison, options, seed), _place(out, name, seed))
        for seed in comparison.seeds
        for name, options in comparison.variants.items()
    ]


def _place(out: Path, variant: str, seed: int) -> Path:
    return out / variant / f"seed_{seed}"


def _words(comparison: Comparison, options: dict[str, Any], seed: int) -> tuple[str, ...]:
    settings = [
        ("trainer.enable_progress_bar", False),
        *((name, seed) for name in _SEED_OPTIONS),
        *comparison.options.items(),
        *options.items(),
    ]
    words = (f"--{name}={_value(value)}" for name, value in settings)
    return ("fit", "-c", str(comparison.config), *words)


def _value(value: Any) -> str:
    # JSON is YAML, in which the command line reads values.
    return value if isinstance(value, str) else json.dumps(value)


def collect(comparison: Comparison, outcomes: Sequence[Outcome]) -> list[Result]:
    """What the runs of `plan` reached, in their order."""
    names = [(name, seed) for seed in comparison.seeds for name in comparison.variants]
    return [
        _result(name, seed, comparison.metrics, outcome)
        for (name, seed), outcome in zip(names, outcomes, strict=True)
    ]


def _result(variant: str, seed: int, wanted: Sequence[str], outcome: Outcome) -> Result:
    directory = outcome.version or outcome.run.directory
    metrics, fault = {}, "the training failed"
    if outcome.succeeded:
        metrics, fault = _metrics(directory, wanted)
    params, mult_adds = _cost(directory)
    minutes = outcome.seconds / 60
    return Result(variant, seed, metrics, minutes, params, mult_adds, directory, fault)


def _metrics(directory: Path, wanted: Sequence[str]) -> tuple[dict[str, float], str]:
    """The numbers that were asked for, and what is wrong where they are not there."""
    found: dict[str, Any] = {}
    for path in sorted(directory.glob("*_metrics.json")):
        found |= json.loads(path.read_text())
    missing = [name for name in wanted if not isinstance(found.get(name), (int, float))]
    if missing:
        return {}, f"no {', '.join(missing)} in {directory}/*_metrics.json"
    return {name: float(found[name]) for name in wanted}, ""


def _cost(directory: Path) -> tuple[int | None, int | None]:
    """Parameters and mult-adds of a run's network, at the size of its images."""
    from ..costs.networks import cost_of

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
    """The mean of numbers; NaN where there are none."""
    return math.fsum(values) / len(values) if values else math.nan


def differences(results: Sequence[Result], variant: str, first: str, metric: str) -> list[float]:
    """By how much a variant is above the first one, for each seed that both have finished."""
    values = {(row.variant, row.seed): row.metrics[metric] for row in results if row.metrics}
    seeds = sorted({row.seed for row in results})
    return [
        values[variant, seed] - values[first, seed]
        for seed in seeds
        if (variant, seed) in values and (first, seed) in values
    ]


_ABSENT = "-"


def write_tables(comparison: Comparison, results: Sequence[Result], out: Path) -> str:
    """Write ``comparison.md``, ``comparison.csv`` and ``comparison.json``.

    Args:
        comparison: What was compared.
        results: What the runs reached.
        out: Folder for the three files.

    Returns:
        The Markdown.
    """
    table = markdown(comparison, results)
    for suffix, text in (
        ("md", table),
        ("csv", _csv(comparison, results)),
        ("json", _json(comparison, results)),
    ):
        write_atomically(out / f"comparison.{suffix}", text.encode())
    return table


def markdown(comparison: Comparison, results: Sequence[Result]) -> str:
    """A row for each variant: mean and each seed of the metrics, difference, time and cost."""
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
    for name, unit, scale, digits in (("params", "M", 1e6, 2), ("mult_adds", "M", 1e6, 1)):
        counts = {getattr(row, name) for row in rows} - {None}
        cells.append(", ".join(f"{count / scale:.{digits}f} {unit}" for count in counts) or _ABSENT)
    return cells


def _number(value: float, digits: int = 4) -> str:
    return _ABSENT if math.isnan(value) else f"{value:.{digits}f}"


def _csv(comparison: Comparison, results: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["variant", "seed", *comparison.metrics]
    writer.writerow([*names, "minutes", "params", "mult_adds", "run", "fault"])
    for row in results:
        values = [row.metrics.get(name, "") for name in comparison.metrics]
        counts = ["" if count is None else count for count in (row.params, row.mult_adds)]
        writer.writerow(
            [
                row.variant,
                row.seed,
                *values,
                f"{row.minutes:.3f}",
                *counts,
                row.directory,
                row.fault,
            ]
        )
    return text.getvalue()


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
