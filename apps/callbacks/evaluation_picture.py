"""The callback behind the pictures of what an evaluation measured, one file a run."""

import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure

from ...datasets.errors import DataError
from ...datasets.files import write_atomically


class EvaluationPicture(Callback):
    """Writes a figure into the run's folder after each validation and test, also while training.

    A TensorBoardLogger gets it, too. Sanity checks and ``fast_dev_run`` draw nothing. A subclass
    says what is drawn.
    """

    file_name: str
    """In the run's folder, .png."""
    label: str
    """What the picture shows, in the line that says where it is."""

    def __init__(self) -> None:
        """Start without a place."""
        self._path = Path()

    def figure(self, trainer: Trainer, task: Any) -> Figure | None:
        """Return the figure; None where there is nothing to draw.

        Args:
            trainer: Says at which point of which command this is.
            task: An ``EvaluatedTask``.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say what it draws")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Ask for the run's folder, which all processes must do together."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.file_name

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, task: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        figure = self.figure(trainer, task)
        if figure is None:
            return
        write_figure(figure, self._path)
        stage = TrainerFn(trainer.state.fn)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                name = f"{self._path.stem}/{stage.value}"
                logger.experiment.add_figure(name, figure, trainer.global_step)
        if stage != TrainerFn.FITTING:
            print(f"{self.label}: {self._path}", flush=True)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        DataError: the name does not end in .png.
    """
    check_png(path)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_atomically(path, png.getvalue())


def check_png(path: Path) -> None:
    """Refuse names of pictures that do not end in .png.

    Raises:
        DataError: another ending.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: pictures are written as .png")
