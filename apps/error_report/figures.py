"""The figures of an error analysis, without pyplot so that the user's plots are not affected."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...heads.detection.error_analysis import BACKGROUND, ErrorAnalysis
from ..confusion import draw_confusion, short_name
from ..drawing import PALETTE

_SIZE = (6.4, 4.6)
_FAINT = {"color": "#9aa3ad", "linewidth": 0.8, "alpha": 0.55}


def draw_all(analysis: ErrorAnalysis) -> dict[str, Figure]:
    """Return the figures by the names of their files, without suffix."""
    return {
        "precision_recall": draw_precision_recall(analysis),
        "thresholds": draw_thresholds(analysis),
        "kinds": draw_kinds(analysis),
        "confusion": draw_matrix(analysis),
    }


def draw_precision_recall(analysis: ErrorAnalysis) -> Figure:
    """Draw precision over recall: a line for each class, and their mean, whose area is AP50."""
    figure, axes = _axes("recall", "precision")
    recall = np.linspace(0, 1, analysis.precision.shape[1])
    names = list(analysis.per_class)
    measured = np.flatnonzero(~np.isnan(analysis.precision[:, 0]))
    if len(measured) > len(PALETTE):
        axes.plot(recall, analysis.precision[measured].T, **_FAINT)
    else:
        for color, label in zip(PALETTE, measured.tolist(), strict=False):
            # A label that began with an underscore would be left out.
            legend = f"{analysis.per_class[names[label]].ap50:.3f} {short_name(names[label])}"
            axes.plot(recall, analysis.precision[label], color=color, linewidth=1, label=legend)
    if analysis.ap50 is not None:
        mean = analysis.precision[measured].mean(axis=0)
        axes.plot(recall, mean, color="#111111", linewidth=2.4, label=f"{analysis.ap50:.3f} mean")
        axes.legend(title="AP50", frameon=False, fontsize="small")
    return figure


def draw_thresholds(analysis: ErrorAnalysis) -> Figure:
    """Draw precision, recall and F1 of all classes over the score threshold, and the best one."""
    figure, axes = _axes("score threshold", "")
    threshold = np.linspace(0, 1, len(analysis.decisions))
    axes.plot(threshold, analysis.f1_per_class.T, **_FAINT)
    named = zip(("precision", "recall", "F1 of all classes"), PALETTE, strict=False)
    for column, (name, color) in enumerate(named):
        style = {"linewidth": 2.4} if column == 2 else {"linewidth": 1.4, "linestyle": "--"}
        (line,) = axes.plot(threshold, analysis.decisions[:, column], color=color, label=name)
        line.set(**style)
    axes.plot([], [], **_FAINT, label="F1 of each class")
    if analysis.best is not None:
        best = analysis.best
        label = f"best: F1 {best.f1:.3f} at {best.threshold:.3f}"
        axes.axvline(best.threshold, color="#111111", linewidth=1, linestyle=":", label=label)
    axes.legend(frameon=False, fontsize="small")
    return figure


def draw_kinds(analysis: ErrorAnalysis) -> Figure:
    """Draw what each kind of error costs, and how many there are at the best threshold."""
    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(analysis.kinds)
    costs = [kind.ap50_cost for kind in analysis.kinds.values()]
    counts = [kind.at_best for kind in analysis.kinds.values()]
    for axes, values, written, title in (
        (left, costs, [f"{value:.3f}" for value in costs], "AP50 lost"),
        (right, counts, [f"{value:,}" for value in counts], "errors at the best threshold"),
    ):
        bars = axes.barh(names, values, color=PALETTE)
        axes.bar_label(bars, written, padding=3, fontsize="small")
        axes.set_title(title, fontsize="medium")
        axes.set_xlim(0, max(*values, 1e-3) * 1.18)
        axes.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    return figure


def draw_matrix(analysis: ErrorAnalysis) -> Figure:
    """Draw the confusion matrix at the best threshold."""
    title = (
        "no threshold" if analysis.best is None else f"score {analysis.best.threshold:.3f} or more"
    )
    names = [*analysis.per_class, BACKGROUND]
    return draw_confusion(analysis.confusion, names, title, "objects", background=True)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
