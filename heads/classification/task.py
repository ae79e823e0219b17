"""Training and measuring a classifier with Lightning."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from ...datasets.types import ClassificationBatch
from ..checkpoint import load_task
from ..distillation import Distillation, ModelTeacher
from ..evaluation import EvaluatedTask, dataset_name
from .metrics import ClassificationEvaluator, ClassificationResult, format_table


class BatchMix:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), each with its share of the batches.

    The draws depend on the given seed alone, so a resumed run repeats them.

    Args:
        mixup_alpha: Parameter of mixup's Beta distribution; 0 is no mixup.
        cutmix_alpha: The same for CutMix; 0 is no CutMix.
        p: Chance that a batch is blended at all; mixup and CutMix share it equally.

    Raises:
        ValueError: An option is out of its range, or both are 0.
    """

    def __init__(self, mixup_alpha: float = 0.2, cutmix_alpha: float = 0.0, p: float = 1.0) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
            raise ValueError(
                f"mixup_alpha={mixup_alpha} and cutmix_alpha={cutmix_alpha} must be at least 0, "
                "and one of them more"
            )
        if not 0 <= p <= 1:
            raise ValueError(f"p={p} must be in [0, 1]")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.p = p

    def __call__(
        self, images: Tensor, labels: Tensor, num_classes: int, seed: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Blend a batch of images (B, 3, H, W) uint8 and labels (B,) int64, or leave it.

        ``seed`` are numbers, at least 0, of this draw, such as step and process. A blended
        batch has float32 images in [0, 255] and labels (B, num_classes) float32, rows of
        which add up to 1.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return images, labels
        kinds = [
            (kind, alpha)
            for kind, alpha in ((v2.MixUp, self.mixup_alpha), (v2.CutMix, self.cutmix_alpha))
            if alpha > 0
        ]
        kind, alpha = kinds[rng.integers(len(kinds))]
        # torchvision draws from torch's global generator, on the CPU.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            return kind(alpha=alpha, num_classes=num_classes)(images.float(), labels)


class ClassificationTask(EvaluatedTask[ClassificationEvaluator, ClassificationResult]):
    """Train, validate, test and predict with a classifier, such as ``Classifier``.

    Logs ``train/loss`` at each step, ``val/loss``, ``val/top1`` and ``val/top5`` at each
    validation, likewise ``test/...``. Writes ``classification_metrics.json``, and after
    validate, test and predict ``predictions.csv``, into the run's directory.

    Args:
        network: Images (B, 3, H, W) uint8 RGB to logits (B, C).
        categories: Key to name of the classes; the position is the class index. The command line
            links it from the data.
        loss: Of logits (B, C) with labels (B,) or, under ``mix``, probabilities (B, C); None is
            the cross entropy. The same in training and evaluation.
        mix: Blends the images of a training batch; None leaves them.
        distillation: Lets the network learn from a teacher, too. Its loss is part of
            ``train/loss`` and of no other.
        **options: See ``ImageTask``.
    """

    kind = "a classifier"
    keeps_crop = True

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        loss: nn.Module | None = None,
        mix: BatchMix | None = None,
        distillation: Distillation | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.categories = dict(categories)
        self.loss = loss or nn.CrossEntropyLoss()
        self.mix = mix
        self.distillation = distillation

    def losses(self, output: Tensor, batch: ClassificationBatch) -> dict[str, Tensor]:
        """Return the loss of logits (B, C), and what the teacher adds.

        The labels of the batch may be probabilities (B, C) float32.
        """
        # torch's mean over no images is not a number.
        losses = {"labels": self.loss(output, batch.labels) if len(output) else output.sum()}
        if self.distillation is None or not self.training:
            return losses
        losses["labels"] = self.distillation.label_weight * losses["labels"]
        return losses | self.distillation(output, batch.images, batch.paths)

    def on_fit_start(self) -> None:
        """Read the teacher, if there is one, to where the network is by now."""
        if self.distillation is not None:
            files = getattr(self.training_dataset, "paths", None)
            blended = self.mix is not None
            self.distillation.prepare(len(self.categories), self.device, files, blended)

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, blended first by ``mix``."""
        if self.mix is not None:
            seed = (self.global_step, self.global_rank)
            images, labels = self.mix(batch.images, batch.labels, len(self.categories), seed)
            batch = batch._replace(images=images, labels=labels)
        return super().training_step(batch, batch_idx)

    # --- evaluation

    metrics_file = "classification_metrics.json"
    headline = "top1"
    table = staticmethod(format_table)

    def make_evaluator(self, dataset: Any) -> ClassificationEvaluator:
        """Return the evaluator of logits."""
        return ClassificationEvaluator(list(self.categories.values()), dataset_name(dataset))

    def collect(self, output: Tensor, batch: ClassificationBatch) -> Tensor:
        """Return the logits (B, C) of a batch."""
        self.evaluator.update(batch.ids, batch.labels, output, batch.paths)
        return output

    def measure(self, stage: str) -> ClassificationResult:  # noqa: ARG002
        """Return top-1, top-5 and the measures of each class."""
        return self.evaluator.compute()

    def numbers(self, result: ClassificationResult) -> dict[str, float]:
        """Return top-1 and top-5."""
        return {"top1": result.top1, "top5": result.top5}


class CheckpointTeacher(ModelTeacher):
    """A classifier of this package, trained or imported, from its checkpoint.

    Args:
        checkpoint: A checkpoint of a ``ClassificationTask``.
        size_hw: What images are resized to for it; None leaves them.
    """

    def __init__(self, checkpoint: str | Path, size_hw: tuple[int, int] | None = None) -> None:
        # The network normalizes by itself.
        super().__init__(nn.Identity, None, size_hw, pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1))
        self.path = Path(checkpoint)

    def _make(self) -> nn.Module:
        return load_task(self.path, ClassificationTask).network
