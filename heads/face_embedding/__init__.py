"""Face embeddings: the network, what it learns from, and verification.

The names below are loaded when they are first used, so that measures need no torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .. import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .losses import (
        ArcFace,
        CosFace,
        CosineDistance,
        EmbeddingLoss,
        LossSum,
        RelationalDistance,
        SquaredDifference,
        TripletLoss,
    )
    from .model import EmbeddingHead, FaceNetwork
    from .task import FaceEmbeddingTask
    from .teachers import FacenetTeacher, FaceTeacher, NcnnTeacher, OnnxTeacher, TableTeacher

__getattr__ = lazy_attributes(
    __name__,
    losses=(
        "ArcFace",
        "CosFace",
        "CosineDistance",
        "EmbeddingLoss",
        "LossSum",
        "RelationalDistance",
        "SquaredDifference",
        "TripletLoss",
    ),
    model=("EmbeddingHead", "FaceNetwork"),
    task=("FaceEmbeddingTask",),
    teachers=("FaceTeacher", "FacenetTeacher", "NcnnTeacher", "OnnxTeacher", "TableTeacher"),
)
