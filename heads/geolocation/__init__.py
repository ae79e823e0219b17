"""Geolocation: where on Earth a photo was taken. Cells, network, task and measures.

The names below are loaded when they are first used, so that cells and measures need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cells import Partition, build_partition, read_partitions
    from .losses import CellLoss
    from .metrics import GeolocationResult
    from .model import CellClassifier
    from .task import GeolocationTask
    from .world import GeneratedWorldModule

__all__ = [
    "CellClassifier",
    "CellLoss",
    "GeneratedWorldModule",
    "GeolocationResult",
    "GeolocationTask",
    "Partition",
    "build_partition",
    "read_partitions",
]

_MODULES = {
    "CellClassifier": "model",
    "CellLoss": "losses",
    "GeneratedWorldModule": "world",
    "GeolocationResult": "metrics",
    "GeolocationTask": "task",
    "Partition": "cells",
    "build_partition": "cells",
    "read_partitions": "cells",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
