"""OpenVINO files: the ONNX file read by OpenVINO, an .xml with its weights in a .bin beside it."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino
from openvino import opset11

from ..engines.openvino_runtime import FACTS_ENTRY
from .deployed import Deployable
from .facts import ModelFacts
from .formats import ExportOptions
from .onnx import FORMAT as ONNX


class OpenVinoFormat:
    """Files for OpenVINO."""

    suffix = ".xml"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            ONNX.write(deployable, path, options)
            return convert(path, out, deployable.facts)


def convert(source: Path, out: Path, facts: ModelFacts) -> dict[str, Any]:
    """Write an ONNX file of ours as one for OpenVINO.

    An .xml that is there always has its own .bin: an older one goes before the .bin is replaced.

    Args:
        source: The ONNX file, in float32 or in 8 bits.
        out: The .xml to write or replace.
        facts: What the file is to say.

    Returns:
        As ``Format.write``.

    Raises:
        OSError: The files cannot be written.
    """
    model = openvino.Core().read_model(source)
    resize_as_pillow(model)
    model.set_rt_info(json.dumps(facts.to_strings()), list(FACTS_ENTRY))
    weights = out.with_suffix(".bin")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=out.parent) as folder:
        written = Path(folder) / out.name
        openvino.save_model(model, written, compress_to_fp16=False)
        out.unlink(missing_ok=True)
        os.replace(written.with_suffix(".bin"), weights)
        os.replace(written, out)
    return {
        "openvino": openvino.__version__,
        f"weights in {weights.name}": f"{weights.stat().st_size / 1e6:.1f} MB",
    }


def resize_as_pillow(model: openvino.Model) -> None:
    """Let pictures be resized as Pillow does; OpenVINO passes ONNX's antialiasing over."""
    for node in model.get_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes().get("antialias"):
            continue
        pixels, sizes = node.input_value(0), node.input_value(1)
        places = opset11.constant(np.array([2, 3], np.int64))
        down_and_across = opset11.gather(sizes, places, opset11.constant(np.int64(0)))
        resized = opset11.interpolate(
            pixels,
            down_and_across,
            mode="bilinear_pillow",
            shape_calculation_mode="sizes",
            axes=places,
        )
        resized.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(resized.output(0))


FORMAT = OpenVinoFormat()
