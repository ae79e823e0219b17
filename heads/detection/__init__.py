"""Object detection: SSD-300, its losses, its task and its COCO measures.

The names below are loaded when they are first used, so that a results file can be evaluated
without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anchors import DefaultBoxes, MultiscaleAnchors
    from .assigners import ATSSAssigner, MaxIoUAssigner, SimOTAAssigner
    from .box_losses import IoUBoxLoss, SmoothL1BoxLoss
    from .coco_metrics import CocoEvaluator
    from .distillation import SSDDistillation
    from .losses import AnchorLoss, FocalLoss, MinedCrossEntropy, MultiBoxLoss
    from .postprocess import PostProcess
    from .predictors import DepthwisePredictors, Predictors, SharedPredictors
    from .pyramid import FeaturePyramid
    from .ssd import SSD
    from .task import DetectionTask

__all__ = [
    "SSD",
    "ATSSAssigner",
    "AnchorLoss",
    "CocoEvaluator",
    "DefaultBoxes",
    "DepthwisePredictors",
    "DetectionTask",
    "FeaturePyramid",
    "FocalLoss",
    "IoUBoxLoss",
    "MaxIoUAssigner",
    "MinedCrossEntropy",
    "MultiBoxLoss",
    "MultiscaleAnchors",
    "PostProcess",
    "Predictors",
    "SSDDistillation",
    "SharedPredictors",
    "SimOTAAssigner",
    "SmoothL1BoxLoss",
]

_MODULES = {
    "ATSSAssigner": "assigners",
    "AnchorLoss": "losses",
    "CocoEvaluator": "coco_metrics",
    "DefaultBoxes": "anchors",
    "DepthwisePredictors": "predictors",
    "DetectionTask": "task",
    "FeaturePyramid": "pyramid",
    "FocalLoss": "losses",
    "IoUBoxLoss": "box_losses",
    "MaxIoUAssigner": "assigners",
    "MinedCrossEntropy": "losses",
    "MultiBoxLoss": "losses",
    "MultiscaleAnchors": "anchors",
    "PostProcess": "postprocess",
    "Predictors": "predictors",
    "SSD": "ssd",
    "SSDDistillation": "distillation",
    "SharedPredictors": "predictors",
    "SimOTAAssigner": "assigners",
    "SmoothL1BoxLoss": "box_losses",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
