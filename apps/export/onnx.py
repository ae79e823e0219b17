"""ONNX files: any number of pictures of any size, suppression by ONNX's own operator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...datasets.files import replaced_atomically
from .deployed import Deployable
from .formats import ExportOptions
from .onnx_suppression import translate_suppression
from .onnx_tuning import tune
from .suppression import SUPPRESSION

OPSET = 18
_AXES = ("batch", "height", "width")
_LEFTOVERS = {"BatchNormalization", "Dropout"}


def name_axes(model: onnx.ModelProto) -> None:
    """Call the open axes of the pictures by their names, wherever they come up again."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dim.dim_param: name for dim, name in zip(dims, _AXES, strict=False) if dim.dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


class OnnxFormat:
    """Files for ONNX Runtime and for whatever else reads ONNX."""

    suffix = ".onnx"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        model = make_model(deployable, options, tune)
        with replaced_atomically(out) as temporary:
            onnx.save(model, temporary)
        return {"opset": OPSET, "onnx": onnx.__version__}


def make_model(
    deployable: Deployable,
    options: ExportOptions,
    change: Callable[[ir.Model], None] | None = None,
) -> onnx.ModelProto:
    """Write a network as an ONNX graph.

    Args:
        deployable: The network.
        options: What is left open.
        change: Done to the graph before it is checked; None leaves it as the exporter wrote it.

    Raises:
        ValueError: Something of training is left in it.
    """
    program = torch.onnx.export(
        deployable.program(options.batch, options.any_picture),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(deployable.facts.outputs),
        custom_translation_table={SUPPRESSION: translate_suppression},
        verbose=False,
    )
    assert program is not None
    if change is not None:
        change(program.model)
        RemoveUnusedNodesPass()(program.model)  # values that only what was replaced had
    model = program.model_proto
    left = _LEFTOVERS & {node.op_type for node in model.graph.node}
    if left:
        raise ValueError(f"{', '.join(sorted(left))} of training are left in the graph")
    name_axes(model)
    model.producer_name = "mobilevision"
    onnx.helper.set_model_props(model, deployable.facts.to_strings())
    onnx.checker.check_model(model, full_check=True)
    return model


FORMAT = OnnxFormat()
