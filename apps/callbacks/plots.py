"""Callbacks that plot training curves, confusion matrices and ROC curves."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...heads.classification.task import ClassificationTask
from ...heads.face_embedding.far_frr import Roc
from ...heads.face_embedding.task import FaceEmbeddingTask
from ...heads.face_embedding.verification import VerificationResult
from ..confusion import draw_confusion
from ..drawing import PALETTE
from .images import EvaluationPlot, RunCallback, log_figure

_Series = dict[str, list[tuple[int, float]]]
"""Points (optimizer step, value) by name, in the order of the steps."""

_TRAIN_LOSS = "train/loss"
_LEARNING_RATE = "learning rate"
_METRICS = (  # of all jobs; each is in [0, 1], and higher is better
    *("val/AP", "val/AP50", "val/top1", "val/top5", "val/accuracy", "val/auc"),
    *("val/mean_ap", "val/mean_balanced_accuracy", "val/within_25_km", "val/within_750_km"),
)
_MOST_POINTS = 5000


class Curves(RunCallback):
    """A callback that writes ``curves.png`` to the run's folder when training ends or is stopped.

    It has three panels over the optimizer steps: the training losses (raw faint, smoothed strong)
    with the validation loss, the job's validation metrics (such as AP and AP50, top-1 and top-5),
    and the learning rate of the first optimizer. The values are the logged ones whose names begin
    with ``train/loss``, ``val/loss`` and the names in ``_METRICS``. Loggers that take images get
    it, too.

    The points are stored in the checkpoint, so the curves of a resumed run begin at its start.
    """

    file_name = "curves.png"

    def __init__(self) -> None:
        super().__init__()
        self._points: _Series = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the points so far, as plain numbers."""
        return {name: [list(point) for point in points] for name, points in self._points.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the points of a checkpoint."""
        self._points = {
            name: [(int(step), float(value)) for step, value in points]
            for name, points in state_dict.items()
        }

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Record the losses and the learning rate, as often as the loggers do."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not every or step % every:
            return
        metrics = trainer.callback_metrics
        losses = {name: metrics[name] for name in metrics if name.startswith(_TRAIN_LOSS)}
        self._add(step, {**losses, _LEARNING_RATE: trainer.optimizers[0].param_groups[0]["lr"]})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Record the validation metrics."""
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not trainer.is_global_zero or not training:
            return
        metrics = trainer.callback_metrics
        names = ("val/loss", *_METRICS)
        self._add(trainer.global_step, {name: metrics[name] for name in names if name in metrics})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw the curves and print where they are."""
        self._write(trainer)

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Draw the curves of an interrupted run."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer)

    def _add(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            points = self._points.setdefault(name, [])
            while points and points[-1][0] >= step:
                points.pop()
            points.append((step, float(value)))
            if len(points) > _MOST_POINTS:
                self._points[name] = _thinned(points, _MOST_POINTS // 2)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run or not self._points:  # type: ignore[attr-defined]
            return
        figure = draw_curves(self._points, self._path.parent.name)
        log_figure(trainer, self._path.stem, figure, self._path)
        print(f"Curves: {self._path}", flush=True)


def draw_curves(points: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Draw a run: a panel each for losses, metrics and learning rate, if there are any.

    The points are (optimizer step, value) by logged name, or "learning rate".
    """
    losses = sorted(name for name in points if name.startswith((_TRAIN_LOSS, "val/loss")))
    panels: list[tuple[str, list[str], Callable[[Axes, str, np.ndarray, str], None]]] = [
        ("loss", losses, _draw_loss),
        ("validation", [name for name in _METRICS if name in points], _draw_metric),
        (_LEARNING_RATE, [name for name in points if name == _LEARNING_RATE], _draw_rate),
    ]
    panels = [panel for panel in panels if panel[1]]
    figure = Figure(figsize=(9, 0.6 + 2.8 * max(len(panels), 1)), dpi=110, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0] if panels else []
    for axes, (label, names, draw) in zip(rows, panels, strict=True):
        for name, color in zip(names, itertools.cycle(PALETTE)):
            draw(axes, name, np.array(points[name], dtype=float), color)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if label != _LEARNING_RATE:
            axes.legend(frameon=False, fontsize="small")
        axes.set_xlabel("optimizer step" if axes is rows[-1] else "")
    return figure


def _draw_loss(axes: Axes, name: str, points: np.ndarray, color: str) -> None:
    steps, values = points.T
    if not name.startswith(_TRAIN_LOSS):
        axes.plot(steps, values, "o--", color=color, label=name, markersize=4, linewidth=1.2)
        return
    axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    axes.plot(steps, _smoothed(values), _style(steps), color=color, label=name, linewidth=1.8)


def _draw_metric(axes: Axes, name: str, points: np.ndarray, color: str) -> None:
    steps, values = points[points[:, 1] >= 0].T  # -1: no ground truth
    short = name.removeprefix("val/")
    label = f"{short} (last {values[-1]:.3f}, best {values.max():.3f})" if len(values) else short
    axes.plot(steps, values, "o-", color=color, label=label, markersize=3.5, linewidth=1.6)
    axes.set_ylim(0, 1)


def _draw_rate(axes: Axes, name: str, points: np.ndarray, color: str) -> None:  # noqa: ARG001
    axes.plot(*points.T, _style(points), color=color, linewidth=1.6)
    axes.set_ylim(bottom=0)


def _style(points: np.ndarray) -> str:
    """Return a line, which one point alone does not show."""
    return "-" if len(points) > 1 else "o"


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Average over a window of a twenty-fifth of the run, which is cut off at the ends."""
    window = np.ones(2 * (len(values) // 50) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Keep about ``most`` points, evenly over the steps, including the first and the last."""
    gap = (points[-1][0] - points[0][0]) / most
    kept = [points[0]]
    for point in points[1:-1]:
        if point[0] - kept[-1][0] >= gap:
            kept.append(point)
    return [*kept, points[-1]]


class ConfusionPlot(EvaluationPlot):
    """A callback that writes ``confusion.png`` to the run's folder after each evaluation.

    With up to 30 classes it is the matrix; with more, the 25 most frequent confusions and the
    matrix of their classes. The task has to be a ``ClassificationTask``.
    """

    file_name = "confusion.png"
    label = "Confusion"

    def figure(self, trainer: Trainer, task: ClassificationTask) -> Figure | None:  # noqa: ARG002
        """Return the matrix of the newest result."""
        result = task.last_result
        if result is None:
            return None
        title = f"{result.dataset} · {result.images:,} images · top-1 {result.top1:.3f}"
        return draw_confusion(result.confusion, list(result.per_class), title)


def draw_roc(name: str, roc: Roc, impostor_pairs: int) -> Figure:
    """Draw a ROC curve, with a logarithmic axis of false accepts from one impostor pair."""
    figure = Figure(figsize=(6.4, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    lowest = 1 / max(impostor_pairs, 1)
    visible = roc.far > 0
    start = roc.tar[np.flatnonzero(~visible)[-1]]  # accepted before any impostor
    far = np.concatenate([[lowest], np.maximum(roc.far[visible], lowest)])
    tar = np.concatenate([[start], roc.tar[visible]])
    axes.step(far, tar, where="post", label=name, color=PALETTE[0])
    diagonal = np.geomspace(lowest, 1, 100)
    axes.plot(diagonal, diagonal, linestyle=":", color="#999999", label="chance")
    axes.set(
        xscale="log", xlim=(lowest, 1), ylim=(0, 1.01),
        xlabel=f"false accept rate ({impostor_pairs:,} impostor pairs)", ylabel="true accept rate",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def draw_result(result: VerificationResult) -> Figure:
    """Draw the ROC curve of a result."""
    name = f"{result.dataset}: AUC {result.auc:.4f}, EER {result.eer:.4f}"
    return draw_roc(name, result.roc, result.impostor_pairs)


class RocPlot(EvaluationPlot):
    """A callback that writes ``roc.png`` to the run's folder after each evaluation of faces."""

    file_name = "roc.png"
    label = "ROC"

    def figure(self, trainer: Trainer, task: FaceEmbeddingTask) -> Figure | None:  # noqa: ARG002
        """Return the curve of the newest result."""
        return None if task.verification is None else draw_result(task.verification)
