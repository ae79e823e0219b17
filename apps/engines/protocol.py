"""What runs a detector: one protocol, one small class for each runtime. Free of torch."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np

from ...datasets.errors import DataError
from .runtime import RUNTIMES


class Found(NamedTuple):
    """What was found in B pictures; rows past a picture's last object have label -1."""

    boxes: np.ndarray
    """(B, K, 4) float32, xyxy in pixels of the network's input."""
    scores: np.ndarray
    """(B, K) float32 in [0, 1], falling."""
    labels: np.ndarray
    """(B, K) int64, class index."""


class DetectionEngine(Protocol):
    """A detector that is ready to run."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width that pictures are stretched to, in pixels."""
        ...

    @property
    def categories(self) -> dict[int, str]:
        """Category id -> name; the position is the class index."""
        ...

    def __call__(self, images: np.ndarray) -> Found:
        """Find objects in (B, height, width, 3) uint8 RGB, B at least 1."""
        ...


LoadEngine = Callable[[Path, str, "tuple[int, int] | None"], DetectionEngine]
"""A file, a device and the size of the pictures (None: as the file says) -> an engine."""

_LOADERS = {".ckpt": "eager", **dict.fromkeys(RUNTIMES, "exported")}
"""Suffix of a model file -> the module of this folder whose ``load_engine`` reads it."""


def load_engine(
    path: str | Path, device: str = "auto", size_hw: tuple[int, int] | None = None
) -> DetectionEngine:
    """Load a model with the runtime that its file is for.

    Args:
        path: A checkpoint (``.ckpt``), or what ``mobilevision export`` made of one.
        device: "auto" takes an accelerator where there is one, else the CPU; or what the runtime
            calls its devices, such as "cpu" or "cuda:1".
        size_hw: Height and width that pictures are stretched to; None takes what the model was
            trained with.

    Raises:
        DataError: There is no such file, it is of another kind, or it holds no detector.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such model. Give a checkpoint of `lightning fit`; a public COCO detector "
            "is made by `mobilevision weights download ssd_mobilenet_v1_0.75_coco_quant` and "
            "`mobilevision import ssd_mobilenet_v1_0.75_coco_quant --out ssd.ckpt`."
        )
    if path.suffix not in _LOADERS:
        raise DataError(
            f"{path}: models are read from {', '.join(_LOADERS)} files, not {path.suffix!r}."
        )
    if size_hw is not None and min(size_hw) < 1:
        raise DataError(f"size_hw={size_hw}: height and width must be at least 1.")
    module = import_module(f".{_LOADERS[path.suffix]}", __package__)
    return cast(LoadEngine, module.load_engine)(path, device, size_hw)
