"""Object detection: SSD and Faster R-CNN, their losses, task and COCO measures.

The names below are loaded when they are first used, so that a results file can be evaluated
without importing torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .. import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .assigners import ATSSAssigner, MaxIoUAssigner, SimOTAAssigner
    from .boxes import DefaultBoxes, MultiscaleAnchors, PostProcess
    from .coco_metrics import CocoEvaluator
    from .distillation import SSDDistillation
    from .faster_rcnn import FasterRCNN
    from .faster_rcnn_heads import GridAnchors, ProposalSelection
    from .faster_rcnn_losses import RoILoss, RPNLoss
    from .fpn import FeaturePyramid, PoolingPyramid
    from .losses import (
        AnchorLoss,
        FocalLoss,
        IoUBoxLoss,
        MinedCrossEntropy,
        MultiBoxLoss,
        SmoothL1BoxLoss,
    )
    from .ssd import SSD, DepthwisePredictors, Predictors, SharedPredictors
    from .task import DetectionTask

__getattr__ = lazy_attributes(
    __name__,
    assigners=("ATSSAssigner", "MaxIoUAssigner", "SimOTAAssigner"),
    boxes=("DefaultBoxes", "MultiscaleAnchors", "PostProcess"),
    coco_metrics=("CocoEvaluator",),
    distillation=("SSDDistillation",),
    faster_rcnn=("FasterRCNN",),
    faster_rcnn_heads=("GridAnchors", "ProposalSelection"),
    faster_rcnn_losses=("RPNLoss", "RoILoss"),
    fpn=("FeaturePyramid", "PoolingPyramid"),
    losses=(
        "AnchorLoss",
        "FocalLoss",
        "IoUBoxLoss",
        "MinedCrossEntropy",
        "MultiBoxLoss",
        "SmoothL1BoxLoss",
    ),
    ssd=("SSD", "DepthwisePredictors", "Predictors", "SharedPredictors"),
    task=("DetectionTask",),
)
