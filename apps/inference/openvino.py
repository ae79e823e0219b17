"""OpenVINO files in OpenVINO, without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from .runtime import ModelMetadata

METADATA_ENTRY = ("mobilevision", "facts")
"""Path of the metadata in a file's rt_info."""
_BEST_FIRST = ("GPU", "CPU")
_PRECISIONS = {"": "f32", "f32": "f32", "bf16": "bf16", "f16": "f16"}
"""Suffix of a device's name -> OpenVINO's name for the precision of float operations."""


class OpenVinoRuntime:
    """A file that ``mobilevision export --format openvino`` wrote; see ``open_runtime``.

    Float operations run in float32, as in the checkpoint; OpenVINO's default is bfloat16 on some
    CPUs. "cpu:bf16" asks for that: it is faster, and outputs differ in the third digit.

    Args:
        path: The .xml; its .bin must be in the same folder.
        device: "auto", or a device of OpenVINO, such as "cpu" or "gpu", followed by ":bf16" or
            ":f16" if the device supports it.
        threads: Number of CPU threads.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise DataError(
                f"{path}: openvino, which runs it, is not installed: pip install openvino"
            ) from error
        if not path.with_suffix(".bin").is_file():
            raise DataError(
                f"{path}: its weights, {path.with_suffix('.bin').name}, are not beside it. Copy "
                "both files."
            )
        core = openvino.Core()
        name, precision = choose_device(device, core)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(path)
            place = list(METADATA_ENTRY)
            stored = model.get_rt_info(place) if model.has_rt_info(place) else "{}"
            self._compiled = core.compile_model(model, name, settings)
        except RuntimeError as error:
            raise DataError(
                f"{path}: OpenVINO cannot open it: {error}. Export the checkpoint again."
            ) from error
        self.metadata = ModelMetadata.from_strings(_entries(stored), str(path))
        self._names = list(self.metadata.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        outputs = self._compiled({"images": np.ascontiguousarray(images)})
        return {name: outputs[name] for name in self._names}


def choose_device(device: str, core: Any) -> tuple[str, str]:
    """Return OpenVINO's names of device and precision.

    Args:
        device: As for ``OpenVinoRuntime``.
        core: ``openvino.Core()``.

    Raises:
        DataError: There is no such device, or it does not support the precision.
    """
    kind, _, precision = device.partition(":")
    available = list(core.available_devices)
    name = kind.upper()
    if kind == "auto":
        name = next(each for each in _BEST_FIRST if each in available)
    if name not in available:
        raise DataError(
            f"device {device}: OpenVINO has {', '.join(available)} here. Choose auto or cpu."
        )
    if precision not in _PRECISIONS:
        raise DataError(f"device {device}: after the colon there may be bf16 or f16.")
    wanted = _PRECISIONS[precision]
    supported = {each.lower() for each in core.get_property(name, "OPTIMIZATION_CAPABILITIES")}
    if precision and {"f32": "fp32", "f16": "fp16"}.get(wanted, wanted) not in supported:
        raise DataError(f"device {device}: this {name} does not support {precision}. Leave it out.")
    return name, wanted


def _entries(stored: Any) -> dict[str, str]:
    """Return the metadata of a model; none if it is damaged."""
    try:
        return json.loads(stored.astype(str) if hasattr(stored, "astype") else str(stored))
    except ValueError:
        return {}
