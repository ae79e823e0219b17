"""ONNX files, in float32 or int8: any number of pictures of any size, ONNX's own NMS."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...datasets.files import replaced_atomically
from .deployed import Deployable
from .formats import ExportOptions
from .nms import MULTICLASS_NMS
from .onnx_passes import resize_as_torch, speed_up, translate_nms
from .quantization import quantize, report_notes, with_provenance

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
        """See ``Format``; for int8 a report is written beside the file."""
        if options.int8 is not None:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "float.onnx"
                deployable = with_provenance(deployable, options.int8)
                # Of the passes, only the resize changes pixels; the others are for float32.
                onnx.save(make_model(deployable, options, resize_as_torch), path)
                report = quantize(path, out, deployable.facts.size_hw, options.int8)
            return {"opset": OPSET, **report_notes(report)}
        model = make_model(deployable, options, speed_up)
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
        custom_translation_table={MULTICLASS_NMS: translate_nms},
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
