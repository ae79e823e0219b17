"""Training and measuring a detector with Lightning."""

import inspect
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...backbone.mobilenet import MobileNetV1
from ...backbone.norms import calibrate_norms
from ...backbone.weights import load_weights
from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.types import DetectionBatch, Detections, DetectionTarget
from .coco_engine import CocoResult
from .coco_metrics import CocoEvaluator, format_table, write_metrics

CALIBRATION_PICTURES = 64


class DetectionNetwork(Protocol):
    """What the task asks of a detector; its output is the same type in training and evaluation."""

    pixel_mean: float
    """Taken from the pixels before the backbone."""
    pixel_std: float
    """Then divided by."""

    def __call__(self, images: Tensor) -> Any:
        """Return the network's output for pictures (B, 3, H, W) uint8 RGB."""
        ...

    def compute_losses(self, output: Any, target: DetectionTarget) -> dict[str, Tensor]:
        """Return the parts of the loss, scalars, in training and in evaluation alike."""
        ...

    def detect(self, output: Any, size_hw: tuple[int, int]) -> Detections:
        """Return a batch of detections in pixels of the network's input."""
        ...


class DetectionTask(LightningModule):
    """Train, validate, test and predict with any detector behind ``DetectionNetwork``.

    Logs ``train/loss`` and its parts at each step, ``val/loss``, its parts and the twelve COCO
    numbers (``val/AP``, ``val/AP50``, ...) at each validation, likewise ``test/...``. Writes
    ``coco_metrics.json`` and ``results.json`` (COCO results format) into the run's directory.

    Args:
        network: The detector, for instance ``SSD``.
        categories: COCO category id to name; the position is the class index. The command line
            links it from the data.
        weights: ImageNet weights for the backbone: a public name or a file (see
            ``backbone.weights.load_weights``), read when training starts and never when a
            checkpoint is loaded.
        optimizer: Makes the optimiser from parameter groups; normalisation and biases are in a
            group without weight decay.
        lr_scheduler: Makes the schedule from the optimiser and the number of training steps;
            stepped after each optimiser step. None keeps the learning rate.
        channels_last: Keep the network and the pictures in the memory format that convolutions
            on CPUs and tensor cores prefer.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        weights: str | None = None,
        optimizer: Callable[[Iterable], Optimizer] | None = None,
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self._save_plain_hyperparameters()
        self.network = network
        self.categories = dict(categories)
        self.weights = weights
        self.make_optimizer = optimizer
        self.make_schedule = lr_scheduler
        self.channels_last = channels_last
        self._evaluator: CocoEvaluator | None = None
        self._last_result: CocoResult | None = None
        self.run_dir = Path()
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _save_plain_hyperparameters(self) -> None:
        """Keep in checkpoints what rebuilds this task, as long as it is plain data.

        From the command line Lightning has class paths and arguments. From Python it has objects,
        which ``weights_only=True`` would refuse to load: pass them to ``load_from_checkpoint``.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(frame=inspect.currentframe().f_back)  # type: ignore[union-attr]
        if isinstance(self.hparams["network"], nn.Module):
            for name in ("network", "optimizer", "lr_scheduler"):
                self.hparams.pop(name)

    @property
    def detector(self) -> DetectionNetwork:
        """The network, by what the task asks of it."""
        return cast(DetectionNetwork, self.network)

    def forward(self, images: Tensor) -> Any:
        """Return the network's output for pictures (B, 3, H, W) uint8 RGB."""
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.detector(images.contiguous(memory_format=order))

    # --- training

    def setup(self, stage: str) -> None:
        """Fill the backbone before training; a checkpoint, if there is one, is loaded after."""
        # log_dir is a collective call under DDP: every process asks for it, here and only here.
        self.run_dir = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        if stage != "fit" or self.weights is None or self.trainer.ckpt_path is not None:
            return
        backbone = self.network.backbone
        if not isinstance(backbone, MobileNetV1):
            raise DataError(f"weights: these are for MobileNetV1, not {type(backbone).__name__}")
        loaded = load_weights(backbone, self.weights)
        rank_zero_info(f"Backbone weights from {loaded.path}")
        if loaded.folded:
            self._calibrate(backbone)

    def _calibrate(self, backbone: MobileNetV1) -> None:
        """Give the folded weights their batch normalisation back, on pictures of this data."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise DataError(
                f"weights: {self.weights} needs training pictures before training starts; give "
                "fit() a data module in place of loaders, or load the weights yourself"
            )
        pictures: list[Tensor] = []
        for batch in data.train_dataloader():
            pictures.extend(batch.images)
            if len(pictures) >= CALIBRATION_PICTURES:
                break
        mean, std = self.detector.pixel_mean, self.detector.pixel_std
        batches = ((torch.stack(pictures[i : i + 16]).float() - mean) / std
                   for i in range(0, len(pictures), 16))  # fmt: skip
        seen = calibrate_norms(backbone, batches)
        rank_zero_info(f"Batch normalisation calibrated on {seen} training pictures")

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        losses = self.detector.compute_losses(self(batch.images), batch.target)
        return self._log_losses("train", losses, batch, batch_idx)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule as given; by default SGD at 0.01 with momentum 0.9."""
        decayed, plain = [], []
        for parameter in self.parameters():
            (decayed if parameter.ndim > 1 else plain).append(parameter)
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        make = self.make_optimizer
        optimizer = make(groups) if make else SGD(groups, lr=0.01, momentum=0.9, weight_decay=4e-5)
        if self.make_schedule is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.make_schedule(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # --- evaluation, one path for validation, test and prediction

    def on_validation_epoch_start(self) -> None:
        """Start with no detections."""
        self._start_evaluation(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        """Start with no detections."""
        self._start_evaluation(self.trainer.test_dataloaders)

    def on_predict_epoch_start(self) -> None:
        """Start with no detections."""
        self._start_evaluation(self.trainer.predict_dataloaders)

    # Lightning types the output of a step as a tensor or a mapping, and hands on any other too.
    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> Detections:  # type: ignore[override]
        """Return the detections of a batch in pixels of the original pictures."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: DetectionBatch, batch_idx: int) -> Detections:  # type: ignore[override]
        """Return the detections of a batch in pixels of the original pictures."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: DetectionBatch, batch_idx: int) -> Detections:  # noqa: ARG002
        """Return the detections of a batch in pixels of the original pictures."""
        return self._detect(self(batch.images), batch)

    def on_validation_epoch_end(self) -> None:
        """Measure and log; while training the table waits for the end."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Measure, log and print."""
        self._measure("test")

    def on_predict_epoch_end(self) -> None:
        """Write ``results.json``."""
        self.evaluator.gather()
        self._write_results()

    def on_fit_end(self) -> None:
        """Print the table of the last validation."""
        if self._last_result is not None:
            self._print_result(self._last_result)

    @property
    def evaluator(self) -> CocoEvaluator:
        """What collects the detections of this evaluation."""
        if self._evaluator is None:
            raise RuntimeError("no evaluation is running")
        return self._evaluator

    def _start_evaluation(self, loader: Any) -> None:
        data = loader.dataset
        self._evaluator = CocoEvaluator(data.ground_truth, data.categories, data.name)

    def _detect(self, output: Any, batch: DetectionBatch) -> Detections:
        """Detections in pixels of the original pictures, also given to the evaluator."""
        height, width = (int(size) for size in batch.images.shape[-2:])
        found = self.detector.detect(output, (height, width))
        scale_hw = batch.sizes_hw / batch.sizes_hw.new_tensor([height, width])
        scale = scale_hw[:, None, [1, 0, 1, 0]]  # x, y, x, y
        found = found._replace(boxes=found.boxes * scale)
        self.evaluator.update(batch.image_ids, found)
        return found

    def _evaluate(self, stage: str, batch: DetectionBatch, batch_idx: int) -> Detections:
        output = self(batch.images)
        losses = self.detector.compute_losses(output, batch.target)
        self._log_losses(stage, losses, batch, batch_idx)
        return self._detect(output, batch)

    def _log_losses(
        self, stage: str, losses: dict[str, Tensor], batch: DetectionBatch, batch_idx: int
    ) -> Tensor:
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            parts = ", ".join(f"{name} {value.item()}" for name, value in losses.items())
            raise DataError(
                f"the {stage} loss is not a finite number in epoch {self.current_epoch}, batch "
                f"{batch_idx} ({parts}). The pictures of this batch: {', '.join(batch.paths)}. "
                "Lower the learning rate, lengthen the warm-up or clip gradients "
                "(--trainer.gradient_clip_val=10); if it comes at once, look at these files."
            )
        named = {f"{stage}/loss_{name}": value.detach() for name, value in losses.items()}
        named[f"{stage}/loss"] = total.detach()
        training = stage == "train"
        self.log_dict(named, batch_size=len(batch.images), sync_dist=not training, on_step=training,
                      on_epoch=not training)  # fmt: skip
        if training:
            self.log("loss", total.detach(), prog_bar=True, logger=False)
        return total

    def _measure(self, stage: str) -> None:
        result = self.evaluator.compute()
        numbers = {f"{stage}/{name}": value for name, value in result.numbers.items()}
        self.log_dict(numbers, sync_dist=True)  # the same on all processes: it only calms a warning
        self.log("AP", result.numbers["AP"], prog_bar=True, logger=False)
        if self.trainer.sanity_checking:
            return
        self._last_result = result
        if self.trainer.is_global_zero:
            write_metrics(self.run_dir / "coco_metrics.json", result)
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._write_results()
            self._print_result(result)

    @rank_zero_only
    def _print_result(self, result: CocoResult) -> None:
        print(
            f"\n{format_table(result)}Written to {self.run_dir / 'coco_metrics.json'}", flush=True
        )

    @rank_zero_only
    def _write_results(self) -> None:
        path = self.run_dir / "results.json"
        write_atomically(path, json.dumps(self.evaluator.results()).encode())
        print(f"Detections in the COCO results format: {path}", flush=True)
