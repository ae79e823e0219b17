"""Detection data: COCO and Pascal VOC, their checks, and data modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .module import CocoDataModule, DetectionDataModule, VocDataModule

__all__ = ["CocoDataModule", "DetectionDataModule", "VocDataModule"]


def __getattr__(name: str) -> Any:  # readers of annotations need no torch, and data modules do
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".module", __name__), name)
