"""The callback that draws precision against recall for every attribute."""

import math

import numpy as np
from lightning.pytorch import Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...heads.face_attributes.average_precision import Curve
from ...heads.face_attributes.metrics import AttributeFigures, AttributeResult, by_difficulty
from ...heads.face_attributes.task import AttributeTask
from .evaluation_picture import EvaluationPicture

_LINE = "#1f5fa8"
_CHANCE = "#b0b0b0"
_POINT = "#d1495b"
_CELL_INCHES = (1.95, 1.85)


class AttributePictures(EvaluationPicture):
    """Writes ``precision_recall.png`` into the run's folder after each evaluation.

    A small plot for each attribute, the hardest first: precision against recall, the share of
    positives (what chance gives) as a grey line, the stored threshold as a dot. The task has to be
    an ``AttributeTask``.
    """

    file_name = "precision_recall.png"
    label = "Precision and recall"

    def figure(self, trainer: Trainer, task: AttributeTask) -> Figure | None:  # noqa: ARG002
        """Return the plots of the newest result."""
        result = task.attribute_result
        return None if result is None else draw_precision_recall(result)


def draw_precision_recall(result: AttributeResult) -> Figure:
    """Draw a result; the figure is made without pyplot, so that nobody's plots are touched."""
    rows = by_difficulty(result)
    columns = min(8, math.ceil(math.sqrt(len(rows) * 1.5)))
    lines = math.ceil(len(rows) / columns)
    size = (max(columns * _CELL_INCHES[0], 5.5), lines * _CELL_INCHES[1] + 0.8)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(rows) :]:
        axes.axis("off")
    for axes, (name, row) in zip(grid.flat, rows, strict=False):
        _draw_curve(axes, name, row, result.curves.get(name))
    means = result.means
    named = [f"{result.dataset} · {means.images:,} images"]
    for what, value in (("mean AP", means.mean_ap), ("mean accuracy", means.mean_accuracy)):
        named += [] if value is None else [f"{what} {value:.3f}"]
    figure.suptitle(" · ".join(named), fontweight="bold", fontsize=11)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision   (grey: share of positives, dot: stored threshold)", fontsize=9)
    return figure


def _draw_curve(axes: Axes, name: str, row: AttributeFigures, points: Curve | None) -> None:
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(name.replace("_", " "), fontsize=8, pad=3)
    if points is None or row.average_precision is None:
        axes.text(0.5, 0.5, "no positives", ha="center", va="center", fontsize=8, color="#777777")
        return
    axes.axhline(row.positives / (row.positives + row.negatives), color=_CHANCE, linewidth=1)
    recall, precision = (np.append(part[0], part) for part in (points.recall, points.precision))
    recall[0] = 0.0
    axes.step(recall, precision, where="pre", color=_LINE, linewidth=1.3)
    if row.precision_at_threshold is not None and row.recall_at_threshold is not None:
        axes.plot(row.recall_at_threshold, row.precision_at_threshold, "o", color=_POINT,
                  markersize=4)  # fmt: skip
    low = row.average_precision > 0.5
    axes.text(0.04, 0.06 if low else 0.9, f"AP {row.average_precision:.2f}", fontsize=7.5)
