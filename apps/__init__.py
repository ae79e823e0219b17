"""What a person runs: the command lines, the Python API, pictures and tables.

The names below are loaded when they are first used, so that whatever needs no torch starts without
it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detector import Detector
    from .face_attributes import FaceAttributes, FaceDescription
    from .face_embedder import FaceEmbedder
    from .face_results import Face, Threshold, Verification, similarity
    from .gallery import Gallery
    from .geolocator import Geolocator
    from .places import LocationResult
    from .results import DetectionResult

__all__ = [
    "DetectionResult",
    "Detector",
    "Face",
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
    "DetectionResult": "results",
    "Detector": "detector",
    "Face": "face_results",
    "FaceAttributes": "face_attributes",
    "FaceDescription": "face_attributes",
    "FaceEmbedder": "face_embedder",
    "Gallery": "gallery",
    "Geolocator": "geolocator",
    "LocationResult": "places",
    "Threshold": "face_results",
    "Verification": "face_results",
    "similarity": "face_results",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
