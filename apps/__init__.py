"""The command lines and the Python API.

The names below are loaded on first use, so that code without torch starts quickly.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from ..heads import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .faces.gallery import Gallery
    from .inference.classification import ClassificationResult, Classifier
    from .inference.detection import DetectionResult, Detector
    from .inference.face_analysis import AnalyzedFace, FaceAnalyzer
    from .inference.face_attributes import FaceAttributes, FaceDescription
    from .inference.face_detection import FaceDetector
    from .inference.face_embedding import Face, FaceEmbedder
    from .inference.face_pipeline import Threshold, Verification, similarity
    from .inference.geolocation import Geolocator, LocationResult

MODULES = {
    "faces.gallery": ("Gallery",),
    "inference.classification": ("ClassificationResult", "Classifier"),
    "inference.detection": ("DetectionResult", "Detector"),
    "inference.face_analysis": ("AnalyzedFace", "FaceAnalyzer"),
    "inference.face_attributes": ("FaceAttributes", "FaceDescription"),
    "inference.face_detection": ("FaceDetector",),
    "inference.face_embedding": ("Face", "FaceEmbedder"),
    "inference.face_pipeline": ("Threshold", "Verification", "similarity"),
    "inference.geolocation": ("Geolocator", "LocationResult"),
}
"""Module -> the names of the Python API in it."""

__all__ = [name for names in MODULES.values() for name in names]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__ = lazy_attributes(__name__, **MODULES)
