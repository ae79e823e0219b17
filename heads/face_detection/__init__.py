"""Face detection: RetinaFace, its loss, task, and WIDER FACE's measures.

The names below are loaded when they are first used, so that measures need no torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .. import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .losses import FaceLoss
    from .model import RetinaFace
    from .task import FaceDetectionTask

__getattr__ = lazy_attributes(
    __name__,
    losses=("FaceLoss",),
    model=("RetinaFace",),
    task=("FaceDetectionTask",),
)
