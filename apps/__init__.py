"""What a person runs: the command lines, the Python API, images and tables.

The names below are loaded when they are first used, so that whatever needs no torch starts without
it.
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
    "AnalyzedFace": "inference.face_analysis",
    "ClassificationResult": "inference.classification",
    "Classifier": "inference.classification",
    "DetectionResult": "inference.detection",
    "Detector": "inference.detection",
    "Face": "inference.face_embedding",
    "FaceAnalyzer": "inference.face_analysis",
    "FaceAttributes": "inference.face_attributes",
    "FaceDescription": "inference.face_attributes",
    "FaceEmbedder": "inference.face_embedding",
    "Gallery": "faces.gallery",
    "Geolocator": "inference.geolocation",
    "LocationResult": "inference.geolocation",
    "Threshold": "inference.face_pipeline",
    "Verification": "inference.face_pipeline",
    "similarity": "inference.face_pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
