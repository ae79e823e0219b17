"""MobileNet, the protocol of backbones, and the loading of weights."""

from .features import Backbone, FeatureInfo
from .layers import fuse
from .mobilenet import ImageClassifier, MobileNetV1

__all__ = ["Backbone", "FeatureInfo", "ImageClassifier", "MobileNetV1", "fuse"]
