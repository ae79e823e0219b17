"""OpenVINO files: the ONNX file read by OpenVINO, an .xml with its weights in a .bin beside it."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import openvino

from ..inference.metadata import ModelFacts
from ..inference.openvino import FACTS_ENTRY
from .deployed import Deployable
from .formats import ExportOptions
from .onnx import make_model
from .openvino_resize import resize_as_torch


class OpenVinoFormat:
    """Files for OpenVINO."""

    suffix = ".xml"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            onnx.save(make_model(deployable, options), path)
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
    resize_as_torch(model)
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


FORMAT = OpenVinoFormat()
