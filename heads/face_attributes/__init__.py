"""Face attributes: the head and its network, losses, teacher, task and measures.

The names below are loaded when they are first used, so that measures need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .losses import BinaryCrossEntropy, ClassBalanced, FocalLoss
    from .metrics import AttributeResult
    from .model import AttributeHead, AttributeNetwork
    from .task import AttributeTask, AttributeTeacher, FaceMixup

__all__ = [
    "AttributeHead",
    "AttributeNetwork",
    "AttributeResult",
    "AttributeTask",
    "AttributeTeacher",
    "BinaryCrossEntropy",
    "ClassBalanced",
    "FaceMixup",
    "FocalLoss",
]

_MODULES = {
    "AttributeHead": "model",
    "AttributeNetwork": "model",
    "AttributeResult": "metrics",
    "AttributeTask": "task",
    "AttributeTeacher": "task",
    "BinaryCrossEntropy": "losses",
    "ClassBalanced": "losses",
    "FaceMixup": "task",
    "FocalLoss": "losses",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
