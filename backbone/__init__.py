"""MobileNet, the protocol of backbones, and the loading of weights.

The names below are loaded when they are first used: public weights are listed without torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .lazy import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .layers import fuse
    from .mobilenet import Backbone, FeatureInfo, ImageClassifier, MobileNetV1

__getattr__ = lazy_attributes(
    __name__,
    layers=("fuse",),
    mobilenet=("Backbone", "FeatureInfo", "ImageClassifier", "MobileNetV1"),
)
