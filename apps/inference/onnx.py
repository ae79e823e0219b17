"""ONNX files in ONNX Runtime, without torch."""

from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from .runtime import ModelMetadata

_CPU = "CPUExecutionProvider"
_PROVIDERS = {"cpu": [_CPU], "cuda": ["CUDAExecutionProvider", _CPU]}
"""Device -> execution providers of ONNX Runtime, the best first."""


class OnnxRuntime:
    """A file that ``mobilevision export --format onnx`` wrote; see ``open_runtime``.

    Args:
        path: The file.
        device: "auto", "cpu" or "cuda"; auto takes CUDA if ONNX Runtime has it.
        threads: Number of threads within an operation.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DataError(
                f"{path}: onnxruntime, which runs it, is not installed: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        providers = choose_providers(device, onnxruntime.get_available_providers())
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=providers
            )
            entries = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # its own kinds, and UnicodeDecodeError
            raise DataError(
                f"{path}: ONNX Runtime cannot open it: {error}. Export the checkpoint again."
            ) from error
        self.metadata = ModelMetadata.from_strings(entries, str(path))
        self._names = list(self.metadata.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        outputs = self._session.run(self._names, {"images": images})
        return dict(zip(self._names, outputs, strict=True))


def choose_providers(device: str, available: list[str]) -> list[str]:
    """Return the execution providers for a device, the best first.

    Raises:
        DataError: ONNX Runtime has none for it here.
    """
    kind = device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if _PROVIDERS["cuda"][0] in available else "cpu"
    providers = _PROVIDERS.get(kind, [])
    if not providers or providers[0] not in available:
        raise DataError(
            f"device {device}: ONNX Runtime has {', '.join(available)} here. Choose auto or cpu."
        )
    return providers
