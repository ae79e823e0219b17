"""A Lightning callback that draws how a run went: losses, validation, learning rate."""

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...datasets.files import write_atomically

_Series = dict[str, list[tuple[int, float]]]
"""By name: points (optimiser step, value), steps rising."""

_TRAIN_LOSS = "train/loss"
_LEARNING_RATE = "learning rate"
_MEASURES = (  # of all jobs; each is in [0, 1], and higher is better
    *("val/AP", "val/AP50", "val/top1", "val/top5", "val/accuracy", "val/auc"),
    *("val/mean_ap", "val/mean_balanced_accuracy", "val/within_25_km", "val/within_750_km"),
)
_MOST_POINTS = 5000
_COLORS = ("#1f5fa8", "#d1622b", "#3a8f5c", "#8a5bb0", "#b08a1e", "#5a6b78")


class Curves(Callback):
    """Writes ``curves.png`` into the run's folder when training ends, also when it is interrupted.

    Three panels over the optimiser steps: the training losses (raw faint, smoothed strong) with
    the validation loss, what the job measures in validation (such as AP and AP50, top-1 and top-5),
    and the learning rate. Taken are the logged values whose names begin with ``train/loss``,
    ``val/loss`` and the names in ``_MEASURES``; the learning rate is that of the first optimiser.

    The points are kept in the checkpoint, so the curves of a resumed run go back to its beginning.
    """

    def __init__(self) -> None:
        """Start without points."""
        self._path = Path()
        self._points: _Series = {}

    def state_dict(self) -> dict[str, Any]:
        """The points so far, as plain numbers."""
        return {name: [list(point) for point in points] for name, points in self._points.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the points of a checkpoint."""
        self._points = {
            name: [(int(step), float(value)) for step, value in points]
            for name, points in state_dict.items()
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Ask for the run's folder, which all processes must do together."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / "curves.png"

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Take the losses and the learning rate, as often as the loggers do."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not every or step % every:
            return
        metrics = trainer.callback_metrics
        losses = {name: metrics[name] for name in metrics if name.startswith(_TRAIN_LOSS)}
        self._add(step, {**losses, _LEARNING_RATE: trainer.optimizers[0].param_groups[0]["lr"]})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Take what the validation measured."""
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not trainer.is_global_zero or not training:
            return
        metrics = trainer.callback_metrics
        names = ("val/loss", *_MEASURES)
        self._add(trainer.global_step, {name: metrics[name] for name in names if name in metrics})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Draw, and say where."""
        self._write(trainer)

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Draw what there is of an interrupted run."""
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
        png = io.BytesIO()
        draw_curves(self._points, self._path.parent.name).savefig(png, format="png")
        write_atomically(self._path, png.getvalue())
        print(f"Curves: {self._path}", flush=True)


def draw_curves(points: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Draw a run: a panel each for losses, measures and learning rate, where it has them.

    Args:
        points: (optimiser step, value) by the name that was logged; "learning rate" for that one.
        title: a line on top.

    Returns:
        The figure, made without pyplot, so that nobody's plots are touched.
    """
    losses = sorted(name for name in points if name.startswith((_TRAIN_LOSS, "val/loss")))
    panels: list[tuple[str, list[str], Callable[[Axes, str, np.ndarray, str], None]]] = [
        ("loss", losses, _draw_loss),
        ("validation", [name for name in _MEASURES if name in points], _draw_measure),
        (_LEARNING_RATE, [name for name in points if name == _LEARNING_RATE], _draw_rate),
    ]
    panels = [panel for panel in panels if panel[1]]
    figure = Figure(figsize=(9, 0.6 + 2.8 * max(len(panels), 1)), dpi=110, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0] if panels else []
    for axes, (label, names, draw) in zip(rows, panels, strict=True):
        for name, colour in zip(names, itertools.cycle(_COLORS)):
            draw(axes, name, np.array(points[name], dtype=float), colour)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if label != _LEARNING_RATE:
            axes.legend(frameon=False, fontsize="small")
        axes.set_xlabel("optimiser step" if axes is rows[-1] else "")
    return figure


def _draw_loss(axes: Axes, name: str, points: np.ndarray, colour: str) -> None:
    steps, values = points.T
    if not name.startswith(_TRAIN_LOSS):
        axes.plot(steps, values, "o--", color=colour, label=name, markersize=4, linewidth=1.2)
        return
    axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
    axes.plot(steps, _smoothed(values), color=colour, label=name, linewidth=1.8)


def _draw_measure(axes: Axes, name: str, points: np.ndarray, colour: str) -> None:
    steps, values = points[points[:, 1] >= 0].T  # -1: no ground truth
    short = name.removeprefix("val/")
    label = f"{short} (last {values[-1]:.3f}, best {values.max():.3f})" if len(values) else short
    axes.plot(steps, values, "o-", color=colour, label=label, markersize=3.5, linewidth=1.6)
    axes.set_ylim(0, 1)


def _draw_rate(axes: Axes, name: str, points: np.ndarray, colour: str) -> None:  # noqa: ARG001
    axes.plot(*points.T, color=colour, linewidth=1.6)
    axes.set_ylim(bottom=0)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twenty-fifth of the run, which shrinks at the ends."""
    window = np.ones(2 * (len(values) // 50) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Keep about so many points, evenly over the steps, the first and the last among them."""
    gap = (points[-1][0] - points[0][0]) / most
    kept = [points[0]]
    for point in points[1:-1]:
        if point[0] - kept[-1][0] >= gap:
            kept.append(point)
    return [*kept, points[-1]]
