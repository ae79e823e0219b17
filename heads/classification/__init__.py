"""Classification of whole images: the network, its task and its measures.

The names below are loaded when they are first used, so that measures need no torch.
"""

# ruff: noqa: F401
from typing import TYPE_CHECKING

from .. import lazy_attributes

if TYPE_CHECKING:  # exported, for type checkers
    from .metrics import ClassificationResult
    from .model import Classifier
    from .task import BatchMix, ClassificationTask

__getattr__ = lazy_attributes(
    __name__,
    metrics=("ClassificationResult",),
    model=("Classifier",),
    task=("BatchMix", "ClassificationTask"),
)
