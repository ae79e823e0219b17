"""A callback that says how long a training takes, and what is known to hurt small data sets."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ...backbone.mobilenet import MobileNetV1
from ...datasets.image_module import ImageDataModule
from ...heads.detection.losses import MultiBoxLoss
from ...heads.detection.ssd import SSD
from ...heads.task import ImageTask

SMALL = 10_000
"""Fewer training images are too few for a backbone without ImageNet weights."""
_FEW_STEPS = 4
_MEASURED_STEPS = 5


class TrainingHints(Callback):
    """Says after a few steps how long the training takes; hints at what hurts small data sets.

    The command line adds it to every training; ``fast_dev_run`` says nothing.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the hints, unless a training is resumed, whose options are settled."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.fast_dev_run or trainer.global_step > 0:  # type: ignore[attr-defined]
            return
        if isinstance(pl_module, ImageTask) and isinstance(data, ImageDataModule):
            for hint in hints(trainer, pl_module, data):
                rank_zero_info(f"Hint: {hint}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Measure within epochs alone, without validation."""
        self._last = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Print how long an epoch and the training take, once there are enough steps."""
        now = time.monotonic()
        if self._last and len(self._seconds) < _MEASURED_STEPS:
            self._seconds.append(now - self._last)
            if len(self._seconds) == _MEASURED_STEPS and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                rank_zero_info(_duration(trainer, statistics.median(self._seconds)))
        self._last = now


def _duration(trainer: Trainer, seconds: float) -> str:
    """Return a sentence about the time of an epoch and of what is left of the training."""
    batches = trainer.num_training_batches
    if batches == float("inf"):
        return f"A batch takes about {seconds:.2g} s"
    text = f"An epoch of {batches} batches takes about {_text(batches * seconds)}"
    whole = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
    left = whole - trainer.fit_loop.total_batch_idx
    return text if whole == float("inf") else (
        f"{text}, the training {_text(left * seconds)}, and validation comes on top"
    )  # fmt: skip


def _text(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def hints(trainer: Trainer, task: ImageTask, data: ImageDataModule) -> Iterator[str]:
    """Yield what the options of a training make worse than it has to be."""
    images, batch_size = len(data.datasets["train"]), data.batch_size
    smaller, batches = max(2, images // 8), images // (batch_size * trainer.world_size)
    if smaller >= batch_size:
        pass
    elif batches == 0:
        yield (
            f"a batch of {batch_size} is larger than the training set ({images} images), so that "
            f"an epoch is one step. Try --data.batch_size={smaller}"
        )
    elif batches < _FEW_STEPS:
        yield (
            f"an epoch of {images} images has only {batches} batch{'es' * (batches > 1)}, of which "
            f"normalization and averages see little. Try --data.batch_size={smaller}"
        )
    yield from _warm_up_hints(trainer, task, trainer.estimated_stepping_batches)
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if "bf16" in str(trainer.precision) and on_cpu and not cpu_has_bfloat16():
        yield (
            "this CPU cannot compute in bfloat16, so that a step takes about seven times as long "
            "as in float32. Try --trainer.precision=32-true"
        )
    if "synthetic" in type(data).__module__ or images >= SMALL:
        return
    network: Any = task.network
    backbone = getattr(network, "backbone", None)
    backbone = getattr(backbone, "body", backbone)
    if task.weights is None and trainer.ckpt_path is None and isinstance(backbone, MobileNetV1):
        yield (
            f"the backbone begins without ImageNet weights, which {images} images do not replace: "
            "449 photos of five classes gave a top-1 of 0.81 with them and 0.38 without. Name some "
            "with --model.weights; `mobilevision weights list` shows them"
        )
    if isinstance(network, SSD) and isinstance(network.loss, MultiBoxLoss | None):
        yield (
            "configs/ssd300_modern.yaml learns small sets faster: on 160 images AP 0.48 against "
            "0.42 after 20 of 80 epochs, though no better at the end (docs/results.md)"
        )


def cpu_has_bfloat16() -> bool:
    """Return whether convolutions in bfloat16 are at least as fast on this CPU as in float32.

    Elsewhere oneDNN has none, and torch computes them in slow loops of its own.
    """
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _warm_up_hints(trainer: Trainer, task: ImageTask, steps: float) -> Iterator[str]:
    wanted = ((task.hparams.get("lr_scheduler") or {}).get("init_args") or {}).get("warmup_steps")
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        taken = getattr(schedule, "warmup_steps", None)
        if wanted and taken and taken < wanted:
            yield (
                f"the warm-up of {wanted} steps is shortened to {taken}, a tenth of the "
                f"training's {steps}"
            )
        elif getattr(schedule, "total_iters", 0) > steps:
            yield (
                f"{type(schedule).__name__} takes {schedule.total_iters} steps, longer than the "
                f"training's {steps}: its end is never reached"
            )
