"""Detection data: COCO, YOLO and Pascal VOC, their checks, and the data module."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .module import DetectionDataModule

__all__ = ["DetectionDataModule"]


def __getattr__(name: str) -> Any:  # readers of annotations need no torch, and data modules do
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".module", __name__), name)
