"""Classification of whole images: the network, its task and its measures.

The names below are loaded when they are first used, so that measures need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .metrics import ClassificationResult
    from .model import Classifier
    from .task import BatchMix, ClassificationTask

__all__ = ["BatchMix", "ClassificationResult", "ClassificationTask", "Classifier"]

_MODULES = {
    "BatchMix": "task",
    "ClassificationResult": "metrics",
    "ClassificationTask": "task",
    "Classifier": "model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
