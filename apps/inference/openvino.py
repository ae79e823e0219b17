"""OpenVINO files in OpenVINO. Free of torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.errors import DataError
from .runtime import ModelMetadata

METADATA_ENTRY = ("mobilevision", "facts")
"""Where in a file's rt_info its metadata is."""
_BEST_FIRST = ("GPU", "CPU")
_PRECISIONS = {"": "f32", "f32": "f32", "bf16": "bf16", "f16": "f16"}
"""What follows a device's colon -> OpenVINO's word for the precision of float operations."""


class OpenVinoRuntime:
    """A file that ``mobilevision export --format openvino`` wrote, ready to run.

    Float operations run in float32, as in the checkpoint, where OpenVINO by itself would take
    bfloat16 on some CPUs. "cpu:bf16" asks for that: faster, and answers differ in the third digit.

    Args:
        path: The .xml; its .bin lies beside it.
        device: "auto", or what OpenVINO calls it, such as "cpu" or "gpu", with ":bf16" or ":f16"
            behind it where the device calculates so.
        threads: Threads of the CPU; None leaves it to OpenVINO.

    Raises:
        DataError: openvino is not installed, it has no such device or precision, or the file
            cannot be read or does not say what it is.
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
            said = model.get_rt_info(list(METADATA_ENTRY)) if has_metadata(model) else None
            self._compiled = core.compile_model(model, name, settings)
        except RuntimeError as error:
            raise DataError(
                f"{path}: OpenVINO cannot open it: {error}. Export the checkpoint again."
            ) from error
        self.metadata = ModelMetadata.from_strings(_entries(said), str(path))
        self._names = list(self.metadata.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        found = self._compiled({"images": np.ascontiguousarray(images)})
        return {name: found[name] for name in self._names}


def has_metadata(model: Any) -> bool:
    """Whether a model of OpenVINO says what it is."""
    return bool(model.has_rt_info(list(METADATA_ENTRY)))


def choose_device(device: str, core: Any) -> tuple[str, str]:
    """Device and precision in OpenVINO's words.

    Args:
        device: As for ``OpenVinoRuntime``.
        core: Of OpenVINO.

    Raises:
        DataError: There is no such device here, or it does not calculate so.
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
        raise DataError(f"device {device}: behind the colon stands bf16 or f16, or nothing.")
    wanted = _PRECISIONS[precision]
    able = {each.lower() for each in core.get_property(name, "OPTIMIZATION_CAPABILITIES")}
    if precision and {"f32": "fp32", "f16": "fp16"}.get(wanted, wanted) not in able:
        raise DataError(
            f"device {device}: this {name} does not calculate in {precision}. Leave it out."
        )
    return name, wanted


def _entries(said: Any) -> dict[str, str]:
    if said is None:
        return {}
    try:
        return json.loads(said.astype(str) if hasattr(said, "astype") else str(said))
    except ValueError:
        return {}
