"""The trade-off of false accepts and true accepts, as a picture."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from ..datasets.files import write_atomically
from ..heads.face_embedding.rates import Roc
from ..heads.face_embedding.verification import VerificationResult

_COLOURS = ("#1f5fa8", "#d1622b", "#3a8f5c", "#8a5bb0")
_GREY = "#999999"


def draw_roc(curves: Mapping[str, Roc], impostor_pairs: int) -> bytes:
    """Draw curves with a logarithmic axis of false accepts.

    It begins at one impostor pair: nothing is known of lower rates.

    Args:
        curves: By name, for the legend.
        impostor_pairs: How many the curves rest on.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(6.4, 5.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    lowest = 1 / max(impostor_pairs, 1)
    for number, (name, roc) in enumerate(curves.items()):
        visible = roc.far > 0
        start = roc.tar[np.flatnonzero(~visible)[-1]]  # what is accepted before any impostor
        far = np.concatenate([[lowest], np.maximum(roc.far[visible], lowest)])
        tar = np.concatenate([[start], roc.tar[visible]])
        axes.step(far, tar, where="post", label=name, color=_COLOURS[number % len(_COLOURS)])
    diagonal = np.geomspace(lowest, 1, 100)
    axes.plot(diagonal, diagonal, linestyle=":", color=_GREY, label="chance")
    axes.set(
        xscale="log", xlim=(lowest, 1), ylim=(0, 1.01),
        xlabel=f"false accept rate ({impostor_pairs:,} impostor pairs)", ylabel="true accept rate",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def write_roc(path: Path, result: VerificationResult) -> None:
    """Draw the curve of a result into a PNG file, atomically."""
    name = f"{result.dataset}: AUC {result.auc:.4f}, EER {result.eer:.4f}"
    write_atomically(path, draw_roc({name: result.roc}, result.impostor_pairs))


class RocPicture(Callback):
    """Writes ``roc.png`` into the run's folder after each evaluation of a face network."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the validation measured."""
        self._draw(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the test measured."""
        self._draw(trainer, pl_module)

    @staticmethod
    def _draw(trainer: Trainer, pl_module: LightningModule) -> None:
        result = getattr(pl_module, "last_result", None)
        wanted = trainer.is_global_zero and not trainer.sanity_checking
        if wanted and isinstance(result, VerificationResult):
            write_roc(getattr(pl_module, "run_dir", Path()) / "roc.png", result)
