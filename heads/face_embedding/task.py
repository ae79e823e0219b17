"""Training and measuring a face network with Lightning."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ...datasets.errors import DataError
from ...datasets.faces.views import FaceViews
from ...datasets.types import FaceBatch
from ...datasets.vectors import VectorTable, write_vectors
from ..evaluation import EvaluatedTask
from .losses import EmbeddingLoss, SquaredDifference
from .teachers import EmbeddingTeacher
from .threshold import VERIFICATION_METADATA
from .verification import (
    EmbeddingEvaluator,
    VerificationResult,
    format_table,
    threshold_metadata,
)

VERIFICATION_FILE = "verification.json"
EMBEDDINGS_FILE = "embeddings.npz"


def verification_numbers(result: VerificationResult) -> dict[str, float]:
    """Return accuracy, AUC, EER, the threshold and VAL, as far as they are defined."""
    numbers = {
        "accuracy": result.accuracy,
        "auc": result.auc,
        "eer": result.eer,
        "threshold": result.threshold,
        "val_at_far_1e-3": result.val,
    }
    return {name: value for name, value in numbers.items() if value is not None}


class FaceEmbeddingTask(EvaluatedTask[EmbeddingEvaluator, VerificationResult]):
    """Train, validate, test and predict with a face network, such as ``FaceNetwork``.

    Logs ``train/loss`` at each step, and ``val/accuracy``, ``val/auc``, ``val/eer`` and
    ``val/val_at_far_1e-3`` at each validation, likewise ``test/...``. Held-out faces have no loss:
    their people are not those of training, and a table of embeddings need not have them. Writes
    ``verification.json`` into the run's directory, and after predict ``embeddings.npz``.

    A validation puts the threshold and its false accept rate into the checkpoint.

    Args:
        network: Faces (B, 3, H, W) uint8 RGB to embeddings (B, D) of unit length; has a
            ``dimension``.
        loss: None is the paper's ``SquaredDifference`` (Section 4.7).
        teacher: Gives the targets of a loss; read when training starts and never when a checkpoint
            is loaded. None for losses of identities alone.
        **options: See ``ImageTask``.
    """

    kind = "a face network"

    def __init__(
        self,
        network: nn.Module,
        loss: EmbeddingLoss | None = None,
        teacher: EmbeddingTeacher | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.loss = loss or SquaredDifference()
        self.teacher = teacher

    # --- training

    def on_fit_start(self) -> None:
        """Read the teacher, if there is one, to where the network is by now."""
        dimension = int(self.network.dimension)  # type: ignore[arg-type]
        views = getattr(self.training_dataset, "views", None)
        prepare_teacher(self.loss, self.teacher, dimension, self.device, views)

    def losses(self, output: Tensor, batch: FaceBatch) -> dict[str, Tensor]:
        """Return the parts of the loss of embeddings (B, D)."""
        return embedding_losses(self.loss, self.teacher, output, batch)

    # --- evaluation

    @property
    def verification(self) -> VerificationResult | None:
        """The result of the newest evaluation; None before the first."""
        return self.last_result

    metrics_file = VERIFICATION_FILE
    headline = "accuracy"
    evaluates_losses = False
    table = staticmethod(format_table)
    numbers = staticmethod(verification_numbers)

    def make_evaluator(self, dataset: Any) -> EmbeddingEvaluator:
        """Return the evaluator of embeddings."""
        return EmbeddingEvaluator(dataset.views.faces)

    def collect(self, output: Tensor, batch: FaceBatch) -> Tensor:
        """Return the embeddings (B, D) of a batch."""
        self.evaluator.update(batch.ids, output)
        return output

    def measure(self, stage: str) -> VerificationResult | None:
        """Return how well pairs are told apart; None where faces of the pairs are missing."""
        if self.trainer.sanity_checking:
            return None
        result = self.evaluator.compute()
        if result is None:
            if self.trainer.is_global_zero:
                print(f"Nothing verified: only {self.evaluator.progress}", flush=True)
        elif stage == "val":
            self.metadata[VERIFICATION_METADATA] = threshold_metadata(result)
        return result

    def write_predictions(self) -> None:
        """Write nothing after validate and test."""

    def on_predict_epoch_end(self) -> None:
        """Write ``embeddings.npz``."""
        write_embeddings(self, self.evaluator)


def prepare_teacher(
    loss: EmbeddingLoss,
    teacher: EmbeddingTeacher | None,
    dimension: int,
    device: torch.device,
    views: FaceViews | None,
) -> None:
    """Call ``prepare`` of the teacher of a loss.

    Raises:
        DataError: There is no teacher, and the loss needs one.
        WeightsError: See ``EmbeddingTeacher.prepare``.
    """
    if teacher is not None:
        teacher.prepare(dimension, device, views)
        rank_zero_info(f"Teacher: {type(teacher).__name__}")
    elif loss.needs_teacher:
        raise DataError(
            f"{type(loss).__name__} compares with a teacher: name one (model.teacher), or take a "
            "loss of identities, such as ArcFace"
        )


def embedding_losses(
    loss: EmbeddingLoss, teacher: EmbeddingTeacher | None, embeddings: Tensor, batch: FaceBatch
) -> dict[str, Tensor]:
    """Return the parts of the loss of embeddings (B, D) of unit length."""
    target = None
    if teacher is not None and loss.needs_teacher:
        with torch.no_grad():
            target = teacher(batch).float()
    return loss(embeddings.float(), target, batch.identities)


def write_embeddings(task: EvaluatedTask[Any, Any], evaluator: EmbeddingEvaluator) -> None:
    """Write the embeddings of all processes by file; call it on all of them."""
    ids, rows = evaluator.gather()
    if task.trainer.is_global_zero:
        path = task.run_dir / EMBEDDINGS_FILE
        files = np.array([evaluator.faces.files[row] for row in ids.tolist()])
        write_vectors(path, VectorTable(files, rows), private=True)
        print(f"Embeddings: {path}", flush=True)
