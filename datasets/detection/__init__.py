"""Detection data: COCO and Pascal VOC, their checks, and data modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .module import CocoDataModule, DetectionDataModule, VocDataModule

__all__ = ["CocoDataModule", "DetectionDataModule", "VocDataModule"]

_MODULES = {
    "CocoDataModule": "module",
    "DetectionDataModule": "module",
    "VocDataModule": "module",
}


def __getattr__(name: str) -> Any:  # readers of annotations need no torch, and data modules do
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
