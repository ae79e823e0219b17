"""Geolocation: where on Earth a photo was taken. Network, losses, metrics and task.

The names below are loaded when they are first used, so that metrics need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .losses import CellLoss
    from .metrics import GeolocationResult
    from .model import CellClassifier
    from .task import GeolocationTask

__all__ = [
    "CellClassifier",
    "CellLoss",
    "GeolocationResult",
    "GeolocationTask",
]

_MODULES = {
    "CellClassifier": "model",
    "CellLoss": "losses",
    "GeolocationResult": "metrics",
    "GeolocationTask": "task",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
