"""A callback that reports a training to a search for hyper-parameters, and ends a hopeless one."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ...backbone.errors import import_extra

PRUNED = "pruned"
"""User attribute of a trial that was ended early."""


class Pruning(Callback):
    """Reports a metric of each validation to a trial of Optuna; ``mobilevision tune`` adds it.

    Training ends where the study's pruner has no hope, by default where the metric is worse than
    the median of the earlier trials at the same epoch.

    Args:
        storage: The study's storage, such as ``sqlite:///study.db``.
        study: Name of the study.
        trial: Id of the trial in the storage.
        monitor: Name of the metric.
    """

    def __init__(self, storage: str, study: str, trial: int, monitor: str) -> None:
        self.monitor = monitor
        self._place = (storage, study, trial)
        self._trial: Any = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Report the metric, and end the training if the study says so."""
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None:
            return
        hopeless = trainer.is_global_zero and self._report(float(value), trainer.current_epoch)
        if trainer.strategy.broadcast(hopeless):
            trainer.should_stop = True

    def _report(self, value: float, epoch: int) -> bool:
        if self._trial is None:
            optuna = import_extra("optuna", "'mobilevision[tune]'", "a trial")
            storage, study, trial = self._place
            self._trial = optuna.trial.Trial(
                optuna.load_study(storage=storage, study_name=study), trial
            )
        self._trial.report(value, epoch)
        hopeless = self._trial.should_prune()
        if hopeless:
            self._trial.set_user_attr(PRUNED, True)
        return hopeless
