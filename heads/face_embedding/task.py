"""Training and measuring a face network with Lightning."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor, nn

from ...datasets.errors import DataError
from ...datasets.faces.views import FaceViews
from ...datasets.types import FaceBatch
from ...datasets.vectors import VectorTable, write_vectors
from ..evaluation import EvaluatedTask
from .losses import EmbeddingLoss, SquaredDifference
from .teachers import EmbeddingTeacher
from .verification import (
    VERIFICATION_METADATA,
    EmbeddingEvaluator,
    VerificationResult,
    format_table,
    threshold_metadata,
    write_verification,
)

VERIFICATION_FILE = "verification.json"
EMBEDDINGS_FILE = "embeddings.npz"


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
        loss: What it learns; None is the paper's ``SquaredDifference`` (Section 4.7).
        teacher: What a loss compares with; read when training starts and never when a checkpoint
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
        data = getattr(self.trainer, "datamodule", None)
        train = getattr(data, "datasets", {}).get("train")
        dimension = int(self.network.dimension)  # type: ignore[arg-type]
        views = getattr(train, "views", None)
        prepare_teacher(self.loss, self.teacher, dimension, self.device, views)

    def losses(self, output: Tensor, batch: FaceBatch) -> dict[str, Tensor]:
        """Return the parts of the loss of embeddings (B, D).

        Args:
            output: (B, D), the network's embeddings.
            batch: The faces.
        """
        return embedding_losses(self.loss, self.teacher, output, batch)

    # --- evaluation

    @property
    def verification(self) -> VerificationResult | None:
        """What the newest evaluation measured; None before the first."""
        return self.last_result

    metrics_file = VERIFICATION_FILE
    headline = "accuracy"
    evaluates_losses = False

    def make_evaluator(self, dataset: Any) -> EmbeddingEvaluator:
        """Return what gathers embeddings by face."""
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
            self._print_partial()
        elif stage == "val":
            self.metadata[VERIFICATION_METADATA] = threshold_metadata(result)
        return result

    def numbers(self, result: VerificationResult) -> dict[str, float]:
        """Return accuracy, AUC, EER, the threshold and VAL, as far as they are defined."""
        return verification_numbers(result)

    def table(self, result: VerificationResult) -> str:
        """Return the measures as text."""
        return format_table(result)

    def write_metrics(self, path: Path, result: VerificationResult) -> None:
        """Write the measures as JSON."""
        write_verification(path, result)

    def on_predict_epoch_end(self) -> None:
        """Write ``embeddings.npz``."""
        table = embedding_table(self.evaluator)
        if self.trainer.is_global_zero:
            write_embeddings(self.run_dir / EMBEDDINGS_FILE, table)

    @rank_zero_only
    def _print_partial(self) -> None:
        print(f"Nothing verified: only {self.evaluator.progress}", flush=True)


def prepare_teacher(
    loss: EmbeddingLoss,
    teacher: EmbeddingTeacher | None,
    dimension: int,
    device: torch.device,
    views: FaceViews | None,
) -> None:
    """Read the teacher of a loss that compares with one.

    Args:
        loss: What is learned.
        teacher: Or None.
        dimension: D of the student.
        device: Where the student is.
        views: What the training data draws; None where that is not known.

    Raises:
        DataError: There is none, and the loss needs it.
        WeightsError: It cannot be read, or does not fit the student or the data.
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
    theirs = None
    if teacher is not None and loss.needs_teacher:
        with torch.no_grad():
            theirs = teacher(batch).float()
    return loss(embeddings.float(), theirs, batch.identities)


def verification_numbers(result: VerificationResult) -> dict[str, float]:
    """What is logged: accuracy, AUC, EER, the threshold and VAL, as far as they are defined."""
    numbers = {
        "accuracy": result.accuracy,
        "auc": result.auc,
        "eer": result.eer,
        "threshold": result.threshold,
        "val_at_far_1e-3": result.val,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def embedding_table(evaluator: EmbeddingEvaluator) -> VectorTable:
    """The embeddings of all processes by file; call it on all of them."""
    ids, rows = evaluator.gather()
    return VectorTable(np.array([evaluator.faces.files[row] for row in ids.tolist()]), rows)


def write_embeddings(path: Path, table: VectorTable) -> None:
    """Write a table and say where it is."""
    write_vectors(path, table)
    print(f"Embeddings: {path}", flush=True)
