"""Face embeddings: the network, what it learns from, and verification.

The names below are loaded when they are first used, so that measures need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .losses import (
        ArcFace,
        CosFace,
        CosineDistance,
        EmbeddingLoss,
        LossSum,
        RelationalDistance,
        SquaredDifference,
    )
    from .model import EmbeddingHead, FaceNetwork
    from .task import FaceEmbeddingTask
    from .teachers import FacenetTeacher, FaceTeacher, NcnnTeacher, OnnxTeacher, TableTeacher

__all__ = [
    "ArcFace",
    "CosFace",
    "CosineDistance",
    "EmbeddingHead",
    "EmbeddingLoss",
    "FaceEmbeddingTask",
    "FaceNetwork",
    "FaceTeacher",
    "FacenetTeacher",
    "LossSum",
    "NcnnTeacher",
    "OnnxTeacher",
    "RelationalDistance",
    "SquaredDifference",
    "TableTeacher",
]

_MODULES = {
    "ArcFace": "losses",
    "CosFace": "losses",
    "CosineDistance": "losses",
    "EmbeddingHead": "model",
    "EmbeddingLoss": "losses",
    "FaceEmbeddingTask": "task",
    "FaceNetwork": "model",
    "FaceTeacher": "teachers",
    "FacenetTeacher": "teachers",
    "LossSum": "losses",
    "NcnnTeacher": "teachers",
    "OnnxTeacher": "teachers",
    "RelationalDistance": "losses",
    "SquaredDifference": "losses",
    "TableTeacher": "teachers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
