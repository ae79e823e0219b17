"""Training and measuring a detector with Lightning."""

import json
from typing import Any, Protocol, cast

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from ...datasets.files import write_atomically
from ...datasets.types import DetectionBatch, Detections, DetectionTarget
from ..task import ImageTask, MakeOptimizer, MakeSchedule
from .coco_engine import CocoResult
from .coco_metrics import CocoEvaluator, format_table, write_metrics
from .distillation import Distillation


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


class DetectionTask(ImageTask):
    """Train, validate, test and predict with any detector behind ``DetectionNetwork``.

    Logs ``train/loss`` and its parts at each step, ``val/loss``, its parts and the twelve COCO
    numbers (``val/AP``, ``val/AP50``, ...) at each validation, likewise ``test/...``. Writes
    ``coco_metrics.json`` and ``results.json`` (COCO results format) into the run's directory.

    Args:
        network: The detector, for instance ``SSD``.
        categories: COCO category id to name; the position is the class index. The command line
            links it from the data.
        weights: As for ``ImageTask``, and so are the others.
        optimizer: Makes the optimiser.
        lr_scheduler: Makes the schedule.
        channels_last: Memory format of network and pictures.
        distillation: Lets the network learn from a teacher, too, for instance
            ``SSDDistillation``. Its losses are part of ``train/loss`` and of no other.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        weights: str | None = None,
        optimizer: MakeOptimizer | None = None,
        lr_scheduler: MakeSchedule | None = None,
        channels_last: bool = False,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(network, weights, optimizer, lr_scheduler, channels_last)
        self.distillation = distillation
        self.categories = dict(categories)
        self._evaluator: CocoEvaluator | None = None
        self._last_result: CocoResult | None = None

    @property
    def detector(self) -> DetectionNetwork:
        """The network, by what the task asks of it."""
        return cast(DetectionNetwork, self.network)

    def losses(self, output: Any, batch: DetectionBatch) -> dict[str, Tensor]:
        """Return the parts of the detector's loss, while training with those of the teacher."""
        losses = self.detector.compute_losses(output, batch.target)
        if self.distillation is not None and self.training:
            losses |= self.distillation(batch.images, output)
        return losses

    def on_fit_start(self) -> None:
        """Read the teacher, if there is one, to where the network is by now."""
        if self.distillation is not None:
            self.distillation.prepare(self.network, self.categories, self.device)

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
        self.log_losses(stage, self.losses(output, batch), batch, batch_idx)
        return self._detect(output, batch)

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
