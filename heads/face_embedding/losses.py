"""Losses of embeddings: against a teacher's embedding of the same face, or of identities.

Each is a module that returns a dict of scalars, to be summed. Embeddings have unit length.
Options that are out of their range are ValueErrors.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...datasets.errors import DataError


class EmbeddingLoss(nn.Module):
    """Base of the losses.

    Args:
        weight: Factor of the loss.
    """

    needs_teacher = True
    """Whether it compares with a teacher."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight={weight} must be at least 0")
        self.weight = weight

    def forward(
        self, embeddings: Tensor, teacher: Tensor | None, identities: Tensor
    ) -> dict[str, Tensor]:
        """Return the parts of the loss by name, scalars.

        Embeddings and ``teacher``, None without one, are (B, D) float32, of unit length;
        identities are (B,) int64, -1 where the person is not known.
        """
        raise NotImplementedError


class _TeacherLoss(EmbeddingLoss):
    """Base of the losses against a teacher's embeddings."""

    name: str
    """Name of the loss in the result."""

    def forward(
        self,
        embeddings: Tensor,
        teacher: Tensor | None,
        identities: Tensor,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """See ``EmbeddingLoss``."""
        if teacher is None:
            raise DataError(
                "this loss compares with a teacher, and there is none: name one (model.teacher), "
                "or take a loss of identities"
            )
        return {self.name: self.weight * self.compare(embeddings, teacher)}

    def compare(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, a scalar, of embeddings (B, D) of student and teacher."""
        raise NotImplementedError


class SquaredDifference(_TeacherLoss):
    """The squared difference of both embeddings (Howard et al. 2017, Section 4.7).

    Summed over the D numbers, averaged over the faces: in [0, 4], twice the cosine distance.
    """

    name = "squared"

    def compare(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        """See ``_TeacherLoss``."""
        return _mean((embeddings - teacher).square().sum(dim=1))


class CosineDistance(_TeacherLoss):
    """1 - cosine of both embeddings, in [0, 2]."""

    name = "cosine"

    def compare(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        """See ``_TeacherLoss``."""
        return _mean(1 - F.cosine_similarity(embeddings, teacher))


class RelationalDistance(_TeacherLoss):
    """Differences of the distances between the faces of a batch.

    Park et al. 2019, "Relational Knowledge Distillation", Section 3.2.1: both tables of distances
    are divided by their own mean (equation 6) and compared by the Huber loss (equations 5 and 7).
    A batch of one face has no distances, and no loss. The dimensions of student and teacher may
    differ.
    """

    name = "relational"

    def compare(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        """See ``_TeacherLoss``."""
        if len(embeddings) < 2:
            return embeddings.sum() * 0
        return F.smooth_l1_loss(_relative_distances(embeddings), _relative_distances(teacher))


def _relative_distances(rows: Tensor) -> Tensor:
    """Return the distances of all pairs divided by their mean, (B * (B - 1) / 2,)."""
    distances = F.pdist(rows)
    return distances / distances.mean().clamp_min(1e-6)


class _MarginLoss(EmbeddingLoss):
    """A linear classifier of people on the sphere, with a margin for the right one.

    Args:
        num_identities: People of the training data.
        dimension: D of the embeddings.
        scale: Of the logits (s).
        margin: How much harder (m); None is the paper's.
        weight: Factor of the loss.
    """

    needs_teacher = False
    usual_margin: float

    def __init__(
        self,
        num_identities: int,
        dimension: int = 128,
        scale: float = 64.0,
        margin: float | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.scale, self.margin = scale, self.usual_margin if margin is None else margin
        if num_identities < 2 or dimension < 1 or scale <= 0 or self.margin < 0:
            raise ValueError(
                f"num_identities={num_identities} must be at least 2, dimension={dimension} at "
                f"least 1, scale={scale} positive and margin={margin} at least 0"
            )
        self.centers = nn.Parameter(torch.randn(num_identities, dimension) * 0.01)

    def forward(
        self,
        embeddings: Tensor,
        teacher: Tensor | None,  # noqa: ARG002
        identities: Tensor,
    ) -> dict[str, Tensor]:
        """See ``EmbeddingLoss``; faces of nobody known are left out."""
        people = len(self.centers)
        if (identities >= people).any():
            raise DataError(
                f"num_identities={people}: the data has a person {int(identities.max())} (counted "
                "from 0). Set it to the number of people that the run's first lines name."
            )
        known = identities >= 0
        owners = identities[known]
        cosines = F.linear(embeddings[known].float(), F.normalize(self.centers.float(), dim=1))
        chosen = F.one_hot(owners, people).bool()
        logits = self.scale * torch.where(chosen, self.harder(cosines), cosines)
        total = F.cross_entropy(logits, owners, reduction="sum")
        return {"identity": self.weight * (total / known.sum().clamp_min(1))}

    def harder(self, cosines: Tensor) -> Tensor:
        """Return the cosines to the right person's center, with the margin."""
        raise NotImplementedError


class ArcFace(_MarginLoss):
    """Additive angular margin (Deng et al. 2019, "ArcFace", equation 3).

    The margin is added to the angle, in radians; 0.5 is the paper's. Where angle and margin exceed
    half a turn the cosine falls on along its tangent, as in the authors' code, so that it stays
    monotone.
    """

    usual_margin = 0.5

    def harder(self, cosines: Tensor) -> Tensor:
        """See ``_MarginLoss``."""
        # Its gradient is infinite where the cosine is one.
        sines = (1 - cosines.square()).clamp_min(1e-9).sqrt()
        moved = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        beyond = cosines <= math.cos(math.pi - self.margin)
        return torch.where(beyond, cosines - self.margin * math.sin(self.margin), moved)


class CosFace(_MarginLoss):
    """Additive cosine margin (Wang et al. 2018, "CosFace", equation 4).

    The margin is taken from the cosine; 0.35 is the paper's.
    """

    usual_margin = 0.35

    def harder(self, cosines: Tensor) -> Tensor:
        """See ``_MarginLoss``."""
        return cosines - self.margin


class TripletLoss(EmbeddingLoss):
    """A face is nearer to others of its person than to anybody else, by a margin.

    Schroff et al. 2015, "FaceNet", equation 3: the mean of ``max(0, d(anchor, positive) -
    d(anchor, negative) + margin)`` over all pairs of anchor and positive of the batch, where d is
    the squared distance, in [0, 4]. The negative of a pair is the semi-hard one of Section 3.2, the
    nearest that is farther than the positive. Where all negatives are nearer, it is the farthest of
    them, as in TensorFlow Addons: the nearest ones, often blurred or under a wrong name, make
    embeddings collapse early, and without any the pair would not be learned where it has most to
    learn.

    Batches need several faces of one person: see ``faces_per_person`` of ``FaceDataModule``.

    Args:
        margin: By how much (alpha); 0.2 is the paper's.
        weight: Factor of the loss.
    """

    needs_teacher = False

    def __init__(self, margin: float = 0.2, weight: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 < margin < 4:
            raise ValueError(f"margin={margin} must be between 0 and 4")
        self.margin = margin

    def forward(
        self,
        embeddings: Tensor,
        teacher: Tensor | None,  # noqa: ARG002
        identities: Tensor,
    ) -> dict[str, Tensor]:
        """See ``EmbeddingLoss``; faces of nobody known are left out.

        Raises:
            DataError: No two faces of the batch are of one person, or no two people are in it.
        """
        if not len(identities):
            return {"triplet": embeddings.float().sum()}
        known = identities >= 0
        owners, rows = identities[known], embeddings[known].float()
        same = owners[:, None] == owners
        pairs = same ^ torch.eye(len(owners), dtype=torch.bool, device=same.device)
        if not pairs.any() or same.all():
            raise DataError(_no_triplets(identities))
        distances = 2 - 2 * rows @ rows.T
        # The distances of an anchor's negatives in rising order, then infinity.
        negatives = distances.masked_fill(same, math.inf).sort(dim=1).values
        with torch.no_grad():
            semi_hard = torch.searchsorted(negatives, distances.contiguous(), right=True)
            farthest = (~same).sum(dim=1, keepdim=True) - 1
        chosen = negatives.gather(1, semi_hard.minimum(farthest))
        lacking = (distances - chosen + self.margin)[pairs].clamp_min(0)
        return {"triplet": self.weight * lacking.mean()}


def _no_triplets(identities: Tensor) -> str:
    """Return what is wrong with a batch without triplets, and the way out."""
    if (identities < 0).all():
        return (
            "a triplet loss needs to know who is in the images, and nobody in this batch is known. "
            "Take data with people, such as a folder for each, or a loss against a teacher"
        )
    people = len(identities[identities >= 0].unique())
    return (
        f"a triplet loss compares two faces of a person with a face of another, and this batch of "
        f"{len(identities)} faces has {people:,} known people and no such three. Set "
        "data.faces_per_person to 4, so that a batch has as many of each person"
    )


class LossSum(EmbeddingLoss):
    """Several losses at once.

    Args:
        losses: Different ones.
    """

    def __init__(self, losses: Sequence[EmbeddingLoss]) -> None:
        super().__init__()
        if not losses:
            raise ValueError("LossSum needs at least one loss")
        self.losses = nn.ModuleList(losses)
        self.needs_teacher = any(loss.needs_teacher for loss in losses)

    def forward(
        self, embeddings: Tensor, teacher: Tensor | None, identities: Tensor
    ) -> dict[str, Tensor]:
        """See ``EmbeddingLoss``.

        Raises:
            ValueError: Two losses have parts of the same name.
        """
        parts: dict[str, Tensor] = {}
        for loss in self.losses:
            more = loss(embeddings, teacher, identities)
            if parts.keys() & more.keys():
                raise ValueError(f"two losses are called {', '.join(parts.keys() & more.keys())}")
            parts |= more
        return parts


def _mean(losses: Tensor) -> Tensor:
    """Return the mean over the faces (B,), 0 where there are none."""
    return losses.sum() / max(1, len(losses))
