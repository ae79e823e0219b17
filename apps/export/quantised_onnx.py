"""ONNX files in 8 bits."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ..inference.metadata import ModelFacts
from .deployed import Deployable
from .formats import ExportOptions
from .onnx import OPSET, make_model
from .onnx_resize import resize_as_torch
from .quantising import quantise


class QuantisedOnnxFormat:
    """Files for ONNX Runtime whose layers are in 8 bits."""

    suffix = ".onnx"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``; a report is written beside the file."""
        assert options.int8 is not None
        facts = quantised_facts(deployable, options)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            model = make_model(replace(deployable, facts=facts), options, resize_as_torch)
            onnx.save(model, path)
            report = quantise(path, out, facts.size_hw, options.int8)
        return {"opset": OPSET, **told(report)}


def quantised_facts(deployable: Deployable, options: ExportOptions) -> ModelFacts:
    """What a file in 8 bits says of itself: how it was calibrated, too."""
    assert options.int8 is not None
    how = {"method": options.int8.method, "pictures": len(options.int8.pictures)}
    facts = deployable.facts
    return replace(facts, provenance={**facts.provenance, "int8": how})


def told(report: dict[str, Any]) -> dict[str, Any]:
    """What ``Format.write`` returns of a report."""
    layers = report["layers"]
    count = sum(layer["int8"] for layer in layers)
    return {
        "int8 layers": f"{count} of {len(layers)}",
        "signal to noise": f"{report['signal_to_noise_db']} dB",
    }


FORMAT = QuantisedOnnxFormat()
