"""MobileNet, the protocol of backbones, and the loading of weights."""

from .layers import fuse
from .mobilenet import Backbone, FeatureInfo, ImageClassifier, MobileNetV1

__all__ = ["Backbone", "FeatureInfo", "ImageClassifier", "MobileNetV1", "fuse"]
