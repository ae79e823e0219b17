"""What a person runs: the command lines, the Python API, pictures and tables.

The names below are loaded when they are first used, so that whatever needs no torch starts without
it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detection.detector import Detector
    from .detection.results import DetectionResult
    from .faces.analyzer import AnalyzedFace, FaceAnalyzer
    from .faces.attributes import FaceAttributes, FaceDescription
    from .faces.embedder import FaceEmbedder
    from .faces.gallery import Gallery
    from .faces.results import Face, Threshold, Verification, similarity
    from .geolocation.geolocator import Geolocator
    from .geolocation.results import LocationResult

__all__ = [
    "AnalyzedFace",
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
    "AnalyzedFace": "faces.analyzer",
    "DetectionResult": "detection.results",
    "Detector": "detection.detector",
    "Face": "faces.results",
    "FaceAnalyzer": "faces.analyzer",
    "FaceAttributes": "faces.attributes",
    "FaceDescription": "faces.attributes",
    "FaceEmbedder": "faces.embedder",
    "Gallery": "faces.gallery",
    "Geolocator": "geolocation.geolocator",
    "LocationResult": "geolocation.results",
    "Threshold": "faces.results",
    "Verification": "faces.results",
    "similarity": "faces.results",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
