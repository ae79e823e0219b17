"""Geolocation: where on Earth a photo was taken. Network, losses, metrics and task.

The names below are loaded when they are first used, so that metrics need no torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .. import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .losses import CellLoss
    from .metrics import GeolocationResult
    from .model import CellClassifier
    from .task import GeolocationTask

__getattr__ = lazy_attributes(
    __name__,
    losses=("CellLoss",),
    metrics=("GeolocationResult",),
    model=("CellClassifier",),
    task=("GeolocationTask",),
)
