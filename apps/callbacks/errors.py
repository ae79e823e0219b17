"""A callback that says why a detector errs, at the end of a training and of an evaluation."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ...heads.detection.task import DetectionTask
from ..error_report.report import PAGE, Evaluated, write_report
from .images import RunCallback


class ErrorReport(RunCallback):
    """A callback that writes ``report.html``, ``errors.json`` and ``errors/`` to the run's folder.

    They are about the last validation of a training, or the evaluation of ``validate`` and
    ``test``: see ``apps.error_report``. It takes seconds, so it is done once, when the command
    ends. The module has to be a ``DetectionTask``; the worst images are drawn if its dataset has
    ``annotations`` with paths. ``fast_dev_run`` writes nothing.
    """

    file_name = PAGE

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report of the last validation."""
        self._write(trainer, pl_module, trainer.val_dataloaders)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report, unless this is a part of training."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._write(trainer, pl_module, trainer.val_dataloaders)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        self._write(trainer, pl_module, trainer.test_dataloaders)

    def _write(self, trainer: Trainer, task: Any, loader: Any) -> None:
        assert isinstance(task, DetectionTask), "ErrorReport is for a DetectionTask"
        if not trainer.is_global_zero or trainer.fast_dev_run or task.last_result is None:  # type: ignore[attr-defined]
            return
        evaluator = task.evaluator
        images = getattr(getattr(loader.dataset, "annotations", None), "images", None)
        paths = {} if images is None else dict(zip(images.ids.tolist(), images.paths, strict=True))
        evaluated = Evaluated(
            evaluator.ground_truth, evaluator.results(), evaluator.categories, paths
        )
        path = write_report(self._path.parent, task.last_result, task.analyze_errors(), evaluated)
        print(f"Why it errs: {path}", flush=True)
