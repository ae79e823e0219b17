"""Exported face networks behind the engines of ``FaceEmbedder`` and its like.

Free of torch, as far as the runtime is.
"""

from pathlib import Path

import numpy as np

from ...datasets.errors import DataError
from ..engines.exported import open_for
from ..engines.runtime import RUNTIMES, Runtime
from .results import Analysis, measured_threshold


class ExportedEmbedding:
    """An exported face network behind ``EmbeddingEngine``.

    Args:
        runtime: What runs the file.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.size = runtime.facts.size_hw[0]
        self.threshold = measured_threshold(runtime.facts.details)

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


class ExportedAnalysis:
    """An exported network of both face jobs behind ``AnalysisEngine``.

    Args:
        runtime: What runs the file.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.size_hw = runtime.facts.size_hw
        self.thresholds = dict(runtime.facts.thresholds)
        self.threshold = measured_threshold(runtime.facts.details)

    def __call__(self, crops: np.ndarray) -> Analysis:
        """See ``AnalysisEngine``."""
        said = self._runtime(crops)
        return Analysis(said["embeddings"], said["probabilities"])


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


def load_exported_analysis(
    path: Path, device: str = "auto", size_hw: tuple[int, int] | None = None
) -> ExportedAnalysis:
    """Open an exported network of both face jobs; as ``load_exported_attributes``."""
    return ExportedAnalysis(open_for("faces", path, device, size_hw))
