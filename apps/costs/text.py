"""How costs look as text: the paper's tables beside our counts, and a network by kind of layer."""

import textwrap
from collections.abc import Sequence

from ...backbone.cost import Cost
from .paper_rows import Row

WIDTH = 100
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short_count(count: int | None, digits: int = 4) -> str:
    """Write a count in ones with so many digits and a prefix, such as ``568.7 M``; "-" for None."""
    if count is None:
        return "-"
    for size, prefix in _PREFIXES:
        if count >= size:
            whole = len(str(int(count / size)))
            return f"{count / size:.{max(digits - whole, 0)}f} {prefix}"
    return f"{count}  "


def _paper(count: int | None) -> str:
    """The digits that the paper prints, four at most."""
    if count is None:
        return "-"
    size, prefix = next(each for each in (*_PREFIXES, (1.0, " ")) if count >= each[0])
    return f"{count / size:.4g} {prefix}"


def _difference(count: int | None, paper: int | None) -> str:
    return "" if count is None or not paper else f"{count / paper - 1:+z.1%}"


def table_text(number: int, title: str, rows: Sequence[Row]) -> str:
    """Lay a table out in at most 100 columns: counted, paper, difference; notes below it.

    Args:
        number: Number of the table in the paper.
        title: What it shows.
        rows: Its rows.
    """
    frameworks = len({row.framework for row in rows}) > 1
    labels = [f"{row.framework}  {row.model}" if frameworks else row.model for row in rows]
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    left = max(len(label) for label in labels)
    lines = [f"Table {number}: {title}", "", _header(left)]
    for label, row in zip(labels, rows, strict=True):
        figures = "".join(
            f"{short_count(ours):>10}{_paper(theirs):>10}{_difference(ours, theirs):>9}"
            for ours, theirs in (
                (row.mult_adds, row.paper_mult_adds),
                (row.params, row.paper_params),
            )
        )
        mark = f"  [{notes.index(row.note) + 1}]" if row.note else ""
        lines.append(f"{label:<{left}}{figures}{mark}".rstrip())
    if notes:
        lines.append("")
    for index, note in enumerate(notes, start=1):
        mark = f"[{index}] "
        lines += textwrap.wrap(note, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark))
    return "\n".join(lines)


def _header(left: int) -> str:
    columns = f"{'counted':>10}{'paper':>10}{'differs':>9}"
    heads = f"{'':<{left}}{'mult-adds':>19}{'':>10}{'parameters':>19}".rstrip()
    return f"{heads}\n{'':<{left}}{columns}{columns}"


def network_text(name: str, size_hw: tuple[int, int], cost: Cost, layers: bool) -> str:
    """Lay out what one network costs.

    Args:
        name: What the network is called.
        size_hw: The picture it was counted for.
        cost: What was counted.
        layers: Each layer in place of each kind of layer.
    """
    rows = (
        [(layer.name, layer.mult_adds, layer.params) for layer in cost.layers]
        if layers
        else [(kind, *counts) for kind, counts in cost.by_kind().items()]
    )
    left = max(len(label) for label, *_ in rows)
    shares = (max(cost.mult_adds, 1), max(cost.params, 1))
    lines = [
        f"{name}, one picture of {size_hw[0]} x {size_hw[1]} px (height x width)",
        "",
        f"{'':<{left}}{'mult-adds':>12}{'share':>10}{'parameters':>13}{'share':>10}",
    ]
    for label, mult_adds, params in [*rows, ("total", cost.mult_adds, cost.params)]:
        lines.append(
            f"{label:<{left}}{short_count(mult_adds):>12}{mult_adds / shares[0]:>10.2%}"
            f"{short_count(params):>13}{params / shares[1]:>10.2%}"
        )
    return "\n".join(lines)
