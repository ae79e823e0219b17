"""Exported face networks behind the engines of ``FaceEmbedder`` and ``FaceAttributes``.

Free of torch, as far as the runtime is.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from ..engines.exported import open_for
from ..engines.runtime import RUNTIMES, Runtime
from .results import Threshold


class ExportedEmbedding:
    """An exported face network behind ``EmbeddingEngine``.

    Args:
        runtime: What runs the file.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.size = runtime.facts.size_hw[0]
        measured: dict[str, Any] = runtime.facts.details.get("verification") or {}
        known = measured.get("threshold") is not None and measured.get("far") is not None
        self.threshold = Threshold(measured["threshold"], measured["far"]) if known else None

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """See ``EmbeddingEngine``."""
        return self._runtime(faces)["embeddings"]


class ExportedAttributes:
    """An exported attribute network behind ``AttributeEngine``.

    Args:
        runtime: What runs the file.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.size_hw = runtime.facts.size_hw
        self.thresholds = dict(runtime.facts.thresholds)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """See ``AttributeEngine``."""
        return self._runtime(crops)["probabilities"]


def is_exported(model: str | Path) -> bool:
    """Whether a model is named like what ``mobilevision export`` writes.

    ``onnx:FILE`` is not: that word stands for another people's network.
    """
    return Path(model).suffix in RUNTIMES and not str(model).startswith("onnx:")


def load_exported_embedding(
    path: Path, device: str = "auto", size: int | None = None
) -> ExportedEmbedding:
    """Open an exported face network.

    Args:
        path: The file.
        device: As for ``open_runtime``.
        size: What the user asks for; it was decided when the file was written.

    Raises:
        DataError: It cannot be opened, is for another job, works at another size, or its faces are
            not square.
    """
    runtime = open_for("face_embedding", path, device, None if size is None else (size, size))
    height, width = runtime.facts.size_hw
    if height != width:
        raise DataError(
            f"{path}: works at {height}x{width} px, and aligned faces are square. Export the "
            "checkpoint again, for instance with --size 160 160."
        )
    return ExportedEmbedding(runtime)


def load_exported_attributes(
    path: Path, device: str = "auto", size_hw: tuple[int, int] | None = None
) -> ExportedAttributes:
    """Open an exported attribute network.

    Args:
        path: The file.
        device: As for ``open_runtime``.
        size_hw: What the user asks for; it was decided when the file was written.

    Raises:
        DataError: It cannot be opened, is for another job, or works at another size.
    """
    return ExportedAttributes(open_for("face_attributes", path, device, size_hw))
