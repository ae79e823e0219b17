"""Training and measuring a detector with Lightning."""

import json
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ...datasets.types import DetectionBatch, Detections, DetectionTarget
from ..evaluation import EvaluatedTask
from .coco_metrics import CocoEvaluator, CocoResult, format_table
from .error_analysis import ErrorAnalysis, analyze_errors, best_threshold


class DetectionNetwork(Protocol):
    """The interface of detectors; the output has the same type in training and evaluation."""

    pixel_mean: float
    pixel_std: float

    def __call__(self, images: Tensor) -> Any:
        """Return the network's output for images (B, 3, H, W) uint8 RGB."""
        ...

    def compute_losses(self, output: Any, target: DetectionTarget) -> dict[str, Tensor]:
        """Return the parts of the loss, scalars, in training and in evaluation alike."""
        ...

    def detect(self, output: Any, size_hw: tuple[int, int]) -> Detections:
        """Return a batch of detections in pixels of the network's input."""
        ...


class Distillation(Protocol):
    """The interface of learning from a teacher."""

    def prepare(self, student: nn.Module, categories: dict[int, str], device: torch.device) -> None:
        """Read the teacher when training starts, and check that it fits the student."""
        ...

    def __call__(self, images: Tensor, output: Any) -> dict[str, Tensor]:
        """Return further parts of the loss of a batch, scalars with gradients to ``output``."""
        ...


class DetectionTask(EvaluatedTask[CocoEvaluator, CocoResult]):
    """Train, validate, test and predict with any detector behind ``DetectionNetwork``.

    Logs ``train/loss`` and its parts at each step, ``val/loss``, its parts and the twelve COCO
    numbers (``val/AP``, ``val/AP50``, ...) at each validation, likewise ``test/...``. Writes
    ``coco_metrics.json`` and ``results.json`` (COCO results format) into the run's directory.
    While training, checkpoints hold the score threshold of highest F1 in the newest validation
    (entry ``mobilevision``: ``score_threshold``, ``score_threshold_from``).

    Args:
        network: The detector, for instance ``SSD``.
        categories: COCO category id to name; the position is the class index. The command line
            links it from the data.
        distillation: Lets the network learn from a teacher, too, for instance
            ``SSDDistillation``. Its losses are part of ``train/loss`` and of no other.
        **options: See ``ImageTask``.
    """

    kind = "a detector"

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        distillation: Distillation | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.distillation = distillation
        self.categories = dict(categories)

    @property
    def detector(self) -> DetectionNetwork:
        """The network, by its interface."""
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

    # --- evaluation

    metrics_file = "coco_metrics.json"
    headline = "AP"
    table = staticmethod(format_table)

    def make_evaluator(self, dataset: Any) -> CocoEvaluator:
        """Return the evaluator of detections."""
        return CocoEvaluator(dataset.ground_truth, dataset.categories, dataset.name)

    def collect(self, output: Any, batch: DetectionBatch) -> Detections:
        """Return the detections of a batch in pixels of the original images."""
        height, width = (int(size) for size in batch.images.shape[-2:])
        found = self.detector.detect(output, (height, width))
        scale = self.scales(batch)[:, None]
        points = found.landmarks
        found = found._replace(
            boxes=found.boxes * scale.repeat(1, 1, 2),
            landmarks=None if points is None else points * scale[:, None],
        )
        self.evaluator.update(batch.image_ids, found)
        return found

    def scales(self, batch: DetectionBatch) -> Tensor:
        """Return pixels of the original images (B, 2) float, x and y, for each of the input's."""
        height, width = batch.images.shape[-2:]
        return (batch.sizes_hw / batch.sizes_hw.new_tensor([height, width])).flip(1)

    def measure(self, stage: str) -> CocoResult:  # noqa: ARG002
        """Return COCO's measures; while training, keep the best score threshold for checkpoints."""
        result = self.evaluator.compute()
        if self.is_fitting and not self.trainer.sanity_checking:
            threshold = best_threshold(*self._evaluated())
            self.metadata["score_threshold"] = threshold
            self.metadata["score_threshold_from"] = result.dataset
        return result

    def analyze_errors(self) -> ErrorAnalysis:
        """Find out why the detections of the newest evaluation err, after it was measured."""
        return analyze_errors(*self._evaluated())

    def _evaluated(self) -> tuple[dict, list[dict], str, dict[int, str], list[int]]:
        evaluator = self.evaluator
        return (
            evaluator.ground_truth, evaluator.results(), evaluator.dataset,
            evaluator.categories, evaluator.image_ids,
        )  # fmt: skip

    def numbers(self, result: CocoResult) -> dict[str, float]:
        """Return COCO's twelve numbers."""
        return dict(result.numbers)

    def write_predictions(self) -> None:
        """Write ``results.json``."""
        label = "Detections in the COCO results format"
        self.write_text("results.json", label, json.dumps(self.evaluator.results()))
