"""MobileNet, how its features are handed on, and where its weights come from."""

from .features import Backbone, FeatureInfo
from .fuse import fuse
from .mobilenet import ImageClassifier, MobileNetV1

__all__ = ["Backbone", "FeatureInfo", "ImageClassifier", "MobileNetV1", "fuse"]
