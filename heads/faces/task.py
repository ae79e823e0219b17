"""Training and measuring a network of both face jobs with Lightning."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...datasets.errors import DataError
from ...datasets.faces.views import FaceViews
from ...datasets.files import write_atomically
from ...datasets.types import AttributeBatch, FaceBatch
from ..evaluation import PREDICTIONS_FILE, dataset_name
from ..face_attributes.losses import BinaryCrossEntropy, LabelLoss
from ..face_attributes.metrics import AttributeEvaluator, AttributeResult
from ..face_attributes.metrics import format_table as attribute_table
from ..face_attributes.task import DescribingTask, attribute_numbers
from ..face_embedding.losses import EmbeddingLoss, SquaredDifference
from ..face_embedding.task import (
    VERIFICATION_FILE,
    embedding_losses,
    prepare_teacher,
    verification_numbers,
    write_embeddings,
)
from ..face_embedding.teachers import TableTeacher
from ..face_embedding.threshold import VERIFICATION_METADATA
from ..face_embedding.verification import (
    EmbeddingEvaluator,
    VerificationResult,
    threshold_metadata,
)
from ..face_embedding.verification import format_table as verification_table
from .model import FacesOutput


class FacesEvaluator(NamedTuple):
    """The evaluators of both jobs."""

    attributes: AttributeEvaluator
    embeddings: EmbeddingEvaluator


class FacesResult(NamedTuple):
    """The measures of both jobs."""

    attributes: AttributeResult
    verification: VerificationResult | None
    """None where only some of the faces were embedded."""

    def to_json(self) -> str:
        """Return the measures of attributes as JSON."""
        return self.attributes.to_json()


class FacesTask(DescribingTask[FacesEvaluator, FacesResult]):
    """Train, validate, test and predict with a network of both jobs, such as ``FacesNetwork``.

    Logs and writes what ``AttributeTask`` and ``FaceEmbeddingTask`` do, under the same names, and
    ``val/both``, the mean of ``mean_ap`` and ``accuracy``, to choose an epoch by. The embeddings'
    loss is part of ``train/loss`` and of no other: held-out people are not in the teacher's table.
    Checkpoints hold the thresholds of both jobs.

    An image's every crop, mirrored or moved, has the teacher's embedding of the plain face as its
    target: the teacher takes another frame, and not the crop itself.

    Args:
        network: Crops (B, 3, H, W) uint8 RGB to ``FacesOutput``; has a ``dimension``.
        categories: Position -> name of the attributes. The command line links it from the data.
        teacher: Gives the targets of an embedding loss; read when training starts and never when a
            checkpoint is loaded. None for losses of identities alone.
        embedding_loss: Its ``weight`` is that against the labels' loss; None is
            ``SquaredDifference``.
        label_loss: As ``loss`` of ``AttributeTask``.
        label_weight: Factor of the labels' loss. With this and ``landmark_weight`` at 0 embeddings
            learn alone, with ``embedding_loss.weight`` at 0 attributes do: the same recipe for one
            job, to see what sharing costs.
        **options: See ``DescribingTask``.
    """

    kind = "a network of faces in one pass"

    def __init__(
        self,
        network: nn.Module,
        categories: dict[int, str],
        teacher: TableTeacher | None = None,
        embedding_loss: EmbeddingLoss | None = None,
        label_loss: LabelLoss | None = None,
        label_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(network, categories, **options)
        self.label_loss = label_loss or BinaryCrossEntropy()
        self.teacher = teacher
        self.embedding_loss = embedding_loss or SquaredDifference()
        self.label_weight = label_weight

    # --- training

    def on_fit_start(self) -> None:
        """Count the training labels and read the teacher, if there is one."""
        faces = getattr(self.count_labels(), "faces", None)
        views = None if faces is None else FaceViews(faces)
        dimension = int(self.network.dimension)  # type: ignore[arg-type]
        prepare_teacher(self.embedding_loss, self.teacher, dimension, self.device, views)

    def losses(self, output: FacesOutput, batch: AttributeBatch) -> dict[str, Tensor]:
        """Return the losses of labels and landmarks, and while training those of embeddings."""
        losses = self.attribute_losses(output.attributes, batch)
        losses["labels"] = self.label_weight * losses["labels"]
        if not self.training:
            return losses
        plain = torch.zeros_like(batch.ids)
        faces = FaceBatch(batch.images, batch.identities, plain, batch.ids, batch.paths)
        return losses | embedding_losses(
            self.embedding_loss, self.teacher, output.embeddings, faces
        )

    # --- evaluation

    @property
    def attribute_result(self) -> AttributeResult | None:
        """The newest result of attributes; None before the first."""
        return None if self.last_result is None else self.last_result.attributes

    @property
    def verification(self) -> VerificationResult | None:
        """The newest result of embeddings; None before the first."""
        return None if self.last_result is None else self.last_result.verification

    def make_evaluator(self, dataset: Any) -> FacesEvaluator:
        """Return the evaluators of logits and embeddings; data without people is a DataError."""
        faces = getattr(dataset, "faces", None)
        if faces is None:
            raise DataError(
                f"{dataset_name(dataset)}: knows no people, so nobody can be told apart. Name "
                "CelebAPeopleModule as data, or a dataset with `faces` like its own."
            )
        return FacesEvaluator(self.attribute_evaluator(dataset), EmbeddingEvaluator(faces))

    def collect(self, output: FacesOutput, batch: AttributeBatch) -> FacesOutput:
        """Return the output for a batch."""
        self.collect_attributes(self.evaluator.attributes, output.attributes, batch)
        self.evaluator.embeddings.update(batch.ids, output.embeddings)
        return output

    def measure(self, stage: str) -> FacesResult:
        """Return the measures; while training, thresholds are chosen on the same images first."""
        trial = self.trainer.sanity_checking
        described = self.measure_attributes(self.evaluator.attributes)
        verification = None if trial else self.evaluator.embeddings.compute()
        if verification is not None and stage == "val":
            self.metadata[VERIFICATION_METADATA] = threshold_metadata(verification)
        return FacesResult(described, verification)

    def numbers(self, result: FacesResult) -> dict[str, float]:
        """Return the attributes' means, the measures of verification and ``both``."""
        numbers = attribute_numbers(result.attributes)
        if result.verification is not None:
            numbers |= verification_numbers(result.verification)
            numbers["both"] = (numbers["mean_ap"] + numbers["accuracy"]) / 2
        return numbers

    def table(self, result: FacesResult) -> str:
        """Return the measures of both jobs as text."""
        described = attribute_table(result.attributes)
        if result.verification is None:
            return f"{described}Nothing verified: only {self.evaluator.embeddings.progress}\n"
        return f"{described}\n{verification_table(result.verification)}"

    def write_metrics(self, path: Path, result: FacesResult) -> None:
        """Write the measures of attributes, and ``verification.json`` beside them."""
        super().write_metrics(path, result)
        if result.verification is not None:
            content = result.verification.to_json().encode()
            write_atomically(path.with_name(VERIFICATION_FILE), content)

    def write_predictions(self) -> None:
        """Write ``predictions.csv``."""
        self.write_text(PREDICTIONS_FILE, "Predictions", self.evaluator.attributes.to_csv())

    def on_predict_epoch_end(self) -> None:
        """Write ``predictions.csv`` and ``embeddings.npz``."""
        self.evaluator.attributes.gather()
        if self.trainer.is_global_zero:
            self.write_predictions()
        write_embeddings(self, self.evaluator.embeddings)
