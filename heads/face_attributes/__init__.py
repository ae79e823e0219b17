"""Face attributes: the head and its network, losses, teacher, task and measures.

The names below are loaded when they are first used, so that measures need no torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .. import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .losses import BinaryCrossEntropy, ClassBalanced, FocalLoss
    from .metrics import AttributeResult
    from .model import AttributeHead, AttributeNetwork
    from .task import AttributeTask, AttributeTeacher, FaceMixup

__getattr__ = lazy_attributes(
    __name__,
    losses=("BinaryCrossEntropy", "ClassBalanced", "FocalLoss"),
    metrics=("AttributeResult",),
    model=("AttributeHead", "AttributeNetwork"),
    task=("AttributeTask", "AttributeTeacher", "FaceMixup"),
)
