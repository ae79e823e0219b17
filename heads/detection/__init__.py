"""Object detection: SSD-300, its losses, its task and its COCO measures.

The names below are loaded when they are first used, so that a results file can be evaluated
without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anchors import DefaultBoxes
    from .coco_metrics import CocoEvaluator
    from .losses import MultiBoxLoss
    from .postprocess import PostProcess
    from .ssd import SSD
    from .task import DetectionTask

__all__ = ["SSD", "CocoEvaluator", "DefaultBoxes", "DetectionTask", "MultiBoxLoss", "PostProcess"]

_MODULES = {
    "CocoEvaluator": "coco_metrics",
    "DefaultBoxes": "anchors",
    "DetectionTask": "task",
    "MultiBoxLoss": "losses",
    "PostProcess": "postprocess",
    "SSD": "ssd",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
