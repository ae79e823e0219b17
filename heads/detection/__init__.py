"""Object detection: SSD and Faster R-CNN, their losses, task and COCO measures.

The names below are loaded when they are first used, so that a results file can be evaluated
without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anchors import DefaultBoxes, MultiscaleAnchors
    from .assigners import ATSSAssigner, MaxIoUAssigner, SimOTAAssigner
    from .coco_metrics import CocoEvaluator
    from .distillation import SSDDistillation
    from .faster_rcnn import FasterRCNN
    from .faster_rcnn_heads import GridAnchors, ProposalSelection
    from .faster_rcnn_losses import RoILoss, RPNLoss
    from .fpn import FeaturePyramid
    from .losses import (
        AnchorLoss,
        FocalLoss,
        IoUBoxLoss,
        MinedCrossEntropy,
        MultiBoxLoss,
        SmoothL1BoxLoss,
    )
    from .postprocess import PostProcess
    from .prediction_heads import DepthwisePredictors, Predictors, SharedPredictors
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
    "FasterRCNN",
    "FeaturePyramid",
    "FocalLoss",
    "GridAnchors",
    "IoUBoxLoss",
    "MaxIoUAssigner",
    "MinedCrossEntropy",
    "MultiBoxLoss",
    "MultiscaleAnchors",
    "PostProcess",
    "Predictors",
    "ProposalSelection",
    "RPNLoss",
    "RoILoss",
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
    "DepthwisePredictors": "prediction_heads",
    "DetectionTask": "task",
    "FasterRCNN": "faster_rcnn",
    "FeaturePyramid": "fpn",
    "FocalLoss": "losses",
    "GridAnchors": "faster_rcnn_heads",
    "IoUBoxLoss": "losses",
    "MaxIoUAssigner": "assigners",
    "MinedCrossEntropy": "losses",
    "MultiBoxLoss": "losses",
    "MultiscaleAnchors": "anchors",
    "PostProcess": "postprocess",
    "Predictors": "prediction_heads",
    "ProposalSelection": "faster_rcnn_heads",
    "RPNLoss": "faster_rcnn_losses",
    "RoILoss": "faster_rcnn_losses",
    "SSD": "ssd",
    "SSDDistillation": "distillation",
    "SharedPredictors": "prediction_heads",
    "SimOTAAssigner": "assigners",
    "SmoothL1BoxLoss": "losses",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
