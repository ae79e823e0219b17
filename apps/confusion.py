"""The picture of a confusion matrix, of a classifier or a detector. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import PALETTE

MOST_CLASSES = 30
"""Largest matrix that is drawn as a whole; of more classes, only the most confused are drawn."""
_MOST_PAIRS = 25
_WITH_NUMBERS = 15
_LONGEST_NAME = 22
_MAP = "Blues"


class Pair(NamedTuple):
    """The number of images, or objects, of one class index that were taken for another."""

    true: int
    predicted: int
    number: int
    share: float
    """Share of all of the true class, in (0, 1]."""


def most_confused(
    confusion: np.ndarray, most: int = _MOST_PAIRS, background: bool = False
) -> list[Pair]:
    """Return the most frequently confused pairs of a matrix (C, C), whose rows are true classes.

    With ``background``, the last row and column are no class: they count, but are in no pair.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    if background:
        wrong[-1] = wrong[:, -1] = 0
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    counts = confusion.sum(axis=1)
    return [
        Pair(true, other, int(wrong[true, other]), float(wrong[true, other] / counts[true]))
        for true, other in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[true, other]
    ]


def draw_confusion(
    confusion: np.ndarray,
    names: Sequence[str],
    title: str,
    counted: str = "images",
    background: bool = False,
) -> Figure:
    """Draw a confusion matrix, without pyplot so that the user's plots are not affected.

    Args:
        confusion: (C, C) counts, rows are true classes.
        names: The names of the C classes.
        title: A line on top.
        counted: The name of what is counted.
        background: See ``most_confused``.
    """
    names = list(names)
    if len(names) <= MOST_CLASSES:
        side = 3.6 + 0.32 * max(len(names), 6)
        figure = Figure(figsize=(side + 0.6, side), dpi=110, layout="constrained")
        _draw_matrix(figure, figure.subplots(), confusion, names, counted)
    else:
        pairs = most_confused(confusion, background=background)
        figure = Figure(figsize=(16.5, 8.6), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_pairs(left, pairs, names, counted)
        shown = _classes_of(pairs)
        _draw_matrix(figure, right, confusion[shown], names, counted, shown)
    figure.suptitle(title, fontweight="bold")
    return figure


def _classes_of(pairs: list[Pair]) -> list[int]:
    """Return the classes of the first pairs, at most ``MOST_CLASSES``, pairs side by side."""
    shown: list[int] = []
    for pair in pairs:
        new = [each for each in (pair.true, pair.predicted) if each not in shown]
        if len(shown) + len(new) > MOST_CLASSES:
            break
        shown += new
    return shown


def _draw_matrix(
    figure: Figure,
    axes: Axes,
    rows: np.ndarray,
    names: list[str],
    counted: str,
    shown: list[int] | None = None,
) -> None:
    """Draw the shares of each row; ``shown`` are the classes of the rows and drawn columns."""
    kept = list(range(len(names))) if shown is None else shown
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    if not kept:
        axes.axis("off")
        return
    # By the square root, so that rare confusions are seen beside the diagonal.
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(shares[:, kept], cmap=_MAP, norm=scale, aspect="equal")
    labels = [short_name(names[each]) for each in kept]
    size = 9 if len(kept) <= _WITH_NUMBERS else 7.5
    axes.set_xticks(range(len(kept)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(kept)), labels, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    title = f"share of the {counted} of the true class"
    axes.set_title(title if shown is None else f"{title}, these classes", fontsize=9)
    if len(kept) <= _WITH_NUMBERS:
        for row, column in np.argwhere(rows[:, kept]).tolist():
            axes.text(
                column, row, f"{rows[row, kept[column]]:,}", ha="center", va="center", fontsize=8,
                color="white" if shares[row, kept[column]] > 0.3 else "#222222",
            )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.7)


def _draw_pairs(axes: Axes, pairs: list[Pair], names: list[str], counted: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("the most frequent confusions: true → predicted", fontsize=9)
    if not pairs:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    bars = axes.barh(range(len(pairs)), [pair.number for pair in pairs], color=PALETTE[0])
    axes.bar_label(bars, [f" {pair.share:.0%} of the class" for pair in pairs], fontsize=7.5)
    labels = [
        f"{short_name(names[pair.true])} → {short_name(names[pair.predicted])}" for pair in pairs
    ]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(counted)


def short_name(name: str) -> str:
    """Return what a figure has room for of a name."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
