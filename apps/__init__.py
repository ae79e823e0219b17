"""The command lines and the Python API.

The names below are loaded on first use, so that code without torch starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faces.gallery import Gallery
    from .inference.classification import ClassificationResult, Classifier
    from .inference.detection import DetectionResult, Detector
    from .inference.face_analysis import AnalyzedFace, FaceAnalyzer
    from .inference.face_attributes import FaceAttributes, FaceDescription
    from .inference.face_embedding import Face, FaceEmbedder
    from .inference.face_pipeline import Threshold, Verification, similarity
    from .inference.geolocation import Geolocator, LocationResult

__all__ = [
    "AnalyzedFace",
    "ClassificationResult",
    "Classifier",
    "DetectionResult",
    "Detector",
    "Face",
    "FaceAnalyzer",
    "FaceAttributes",
    "FaceDescription",
    "FaceEmbedder",
    "Gallery",
    "Geolocator",
    "LocationResult",
    "Threshold",
    "Verification",
    "similarity",
]

_MODULES = {
    "faces.gallery": ("Gallery",),
    "inference.classification": ("ClassificationResult", "Classifier"),
    "inference.detection": ("DetectionResult", "Detector"),
    "inference.face_analysis": ("AnalyzedFace", "FaceAnalyzer"),
    "inference.face_attributes": ("FaceAttributes", "FaceDescription"),
    "inference.face_embedding": ("Face", "FaceEmbedder"),
    "inference.face_pipeline": ("Threshold", "Verification", "similarity"),
    "inference.geolocation": ("Geolocator", "LocationResult"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
