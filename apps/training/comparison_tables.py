"""The result of a comparison for people (Markdown), spreadsheets (CSV) and programs (JSON)."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from ...datasets.files import write_atomically
from .comparison import Comparison, Result, differences, mean

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
