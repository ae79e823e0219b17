"""The callback that draws which classes are taken for which others."""

from typing import NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...heads.classification.metrics import ClassificationResult
from ...heads.classification.task import ClassificationTask
from .evaluation_picture import EvaluationPicture

MOST_CLASSES = 30
"""Up to so many the whole matrix is drawn; above, only the classes that are confused most."""
_MOST_PAIRS = 25
_WITH_NUMBERS = 15
_LONGEST_NAME = 22
_MAP = "Blues"


class Pair(NamedTuple):
    """Pictures of one class that were taken for another."""

    true: int
    """Class index."""
    said: int
    """Class index."""
    pictures: int
    """How many."""
    share: float
    """Of the pictures of the true class, in (0, 1]."""


class ConfusionPicture(EvaluationPicture):
    """Writes ``confusion.png`` into the run's folder after each evaluation, also while training.

    With up to 30 classes it is the matrix; with more, the 25 most frequent confusions and the
    matrix of the classes that are in them. The task has to be a ``ClassificationTask``.
    """

    file_name = "confusion.png"
    label = "Confusion"

    def figure(self, trainer: Trainer, task: ClassificationTask) -> Figure | None:  # noqa: ARG002
        """Return the matrix of the newest result."""
        return None if task.last_result is None else draw_confusion(task.last_result)


def most_confused(confusion: np.ndarray, most: int = _MOST_PAIRS) -> list[Pair]:
    """The pairs of classes that are confused most, the most pictures first.

    Args:
        confusion: (C, C) int64, rows are true classes.
        most: pairs to return, at most.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    counts = confusion.sum(axis=1)
    return [
        Pair(true, said, int(wrong[true, said]), float(wrong[true, said] / counts[true]))
        for true, said in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[true, said]
    ]


def draw_confusion(result: ClassificationResult) -> Figure:
    """Draw a result; the figure is made without pyplot, so that nobody's plots are touched."""
    names, classes = list(result.per_class), len(result.per_class)
    title = f"{result.dataset} · {result.images:,} images · top-1 {result.top1:.3f}"
    if classes <= MOST_CLASSES:
        side = 3.6 + 0.32 * max(classes, 6)
        figure = Figure(figsize=(side + 0.6, side), dpi=110, layout="constrained")
        _draw_matrix(figure, figure.subplots(), result.confusion, names)
    else:
        pairs = most_confused(result.confusion)
        figure = Figure(figsize=(16.5, 8.6), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_pairs(left, pairs, names)
        shown = _classes_of(pairs)
        _draw_matrix(figure, right, result.confusion[shown], names, shown)
    figure.suptitle(title, fontweight="bold")
    return figure


def _classes_of(pairs: list[Pair]) -> list[int]:
    """The classes of the first pairs, at most ``MOST_CLASSES``, confused ones side by side."""
    shown: list[int] = []
    for pair in pairs:
        new = [each for each in (pair.true, pair.said) if each not in shown]
        if len(shown) + len(new) > MOST_CLASSES:
            break
        shown += new
    return shown


def _draw_matrix(
    figure: Figure,
    axes: Axes,
    rows: np.ndarray,
    names: list[str],
    shown: list[int] | None = None,
) -> None:
    """Shares of each row; ``shown`` are the rows' classes, and the columns that are drawn."""
    kept = list(range(len(names))) if shown is None else shown
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    if not kept:
        axes.axis("off")
        return
    # By the square root, so that rare confusions are seen beside the diagonal.
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(shares[:, kept], cmap=_MAP, norm=scale, aspect="equal")
    labels = [_short(names[each]) for each in kept]
    size = 9 if len(kept) <= _WITH_NUMBERS else 7.5
    axes.set_xticks(range(len(kept)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(kept)), labels, fontsize=size)
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    axes.set_title(
        "share of the pictures of the true class" + ("" if shown is None else ", these classes"),
        fontsize=9,
    )
    if len(kept) <= _WITH_NUMBERS:
        for row, column in np.argwhere(rows[:, kept]).tolist():
            axes.text(
                column, row, f"{rows[row, kept[column]]:,}", ha="center", va="center", fontsize=8,
                color="white" if shares[row, kept[column]] > 0.3 else "#222222",
            )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.7)


def _draw_pairs(axes: Axes, pairs: list[Pair], names: list[str]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("the most frequent confusions: true → said", fontsize=9)
    if not pairs:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    bars = axes.barh(range(len(pairs)), [pair.pictures for pair in pairs], color="#1f5fa8")
    axes.bar_label(bars, [f" {pair.share:.0%} of the class" for pair in pairs], fontsize=7.5)
    labels = [f"{_short(names[pair.true])} → {_short(names[pair.said])}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("pictures")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
