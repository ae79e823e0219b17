"""The trade-off of false accepts and true accepts, as a picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from matplotlib.figure import Figure

from ...heads.face_embedding.far_frr import Roc
from ...heads.face_embedding.task import FaceEmbeddingTask
from ...heads.face_embedding.verification import VerificationResult
from .evaluation_picture import EvaluationPicture, write_figure

_ROC_COLORS = ("#1f5fa8", "#d1622b", "#3a8f5c", "#8a5bb0")
_GREY = "#999999"


def draw_roc(curves: Mapping[str, Roc], impostor_pairs: int) -> Figure:
    """Draw curves with a logarithmic axis of false accepts.

    It begins at one impostor pair: nothing is known of lower rates.

    Args:
        curves: By name, for the legend.
        impostor_pairs: How many the curves rest on.

    Returns:
        The figure, made without pyplot, so that nobody's plots are touched.
    """
    figure = Figure(figsize=(6.4, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    lowest = 1 / max(impostor_pairs, 1)
    for number, (name, roc) in enumerate(curves.items()):
        visible = roc.far > 0
        start = roc.tar[np.flatnonzero(~visible)[-1]]  # what is accepted before any impostor
        far = np.concatenate([[lowest], np.maximum(roc.far[visible], lowest)])
        tar = np.concatenate([[start], roc.tar[visible]])
        axes.step(far, tar, where="post", label=name, color=_ROC_COLORS[number % len(_ROC_COLORS)])
    diagonal = np.geomspace(lowest, 1, 100)
    axes.plot(diagonal, diagonal, linestyle=":", color=_GREY, label="chance")
    axes.set(
        xscale="log", xlim=(lowest, 1), ylim=(0, 1.01),
        xlabel=f"false accept rate ({impostor_pairs:,} impostor pairs)", ylabel="true accept rate",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def draw_result(result: VerificationResult) -> Figure:
    """Draw the curve of a result."""
    name = f"{result.dataset}: AUC {result.auc:.4f}, EER {result.eer:.4f}"
    return draw_roc({name: result.roc}, result.impostor_pairs)


def write_roc(path: Path, result: VerificationResult) -> None:
    """Draw the curve of a result into a PNG file, atomically.

    Raises:
        DataError: the name does not end in .png.
    """
    write_figure(draw_result(result), path)


class RocPicture(EvaluationPicture):
    """Writes ``roc.png`` into the run's folder after each evaluation of a face network."""

    file_name = "roc.png"
    label = "ROC"

    def figure(self, trainer: Trainer, task: FaceEmbeddingTask) -> Figure | None:  # noqa: ARG002
        """Return the curve of the newest result."""
        return None if task.verification is None else draw_result(task.verification)
