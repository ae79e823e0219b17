"""OpenVINO files in 8 bits: OpenVINO reads the pairs of the ONNX file."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ...datasets.files import replaced_atomically
from .deployed import Deployable
from .formats import ExportOptions
from .onnx import make_model
from .openvino import convert
from .quantised_onnx import quantised_facts, told
from .quantising import quantise, report_path


class QuantisedOpenVinoFormat:
    """Files for OpenVINO whose layers are in 8 bits."""

    suffix = ".xml"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``; a report is written beside the file."""
        assert options.int8 is not None
        facts = quantised_facts(deployable, options)
        with TemporaryDirectory() as folder:
            path, small = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(make_model(replace(deployable, facts=facts), options), path)
            report = quantise(path, small, facts.size_hw, options.int8)
            notes = convert(small, out, facts)
            with replaced_atomically(report_path(out)) as temporary:
                temporary.write_bytes(report_path(small).read_bytes())
        return {**notes, **told(report)}


FORMAT = QuantisedOpenVinoFormat()
