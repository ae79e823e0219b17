"""ONNX files: any number of pictures of any size, suppression by ONNX's own operator."""

from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op
from onnxscript import script

from ...datasets.files import replaced_atomically
from .deployed import Deployable
from .formats import ExportOptions

OPSET = 20
_LEFTOVERS = {"BatchNormalization", "Dropout"}


@script(default_opset=op)
def best_of_group(scores, score_threshold: float, candidates: int):
    """Scores (B, G, A), 0 for all but the best candidates of a group where too many are above."""
    above = op.Cast(op.Greater(scores, op.CastLike(score_threshold, scores)), to=6)  # int32
    in_group = op.ReduceSum(above, op.Constant(value_ints=[2]))
    if op.ReduceMax(in_group, keepdims=0) > op.Cast(candidates, to=6):
        best, _ = op.TopK(scores, op.Reshape(candidates, op.Constant(value_ints=[1])), axis=2)
        last = op.ReduceMin(best, op.Constant(value_ints=[2]))
        limited = op.Where(op.GreaterOrEqual(scores, last), scores, op.CastLike(0.0, scores))
    else:
        limited = op.Identity(scores)
    return limited


def translate_suppression(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    max_kept: int,
) -> Any:
    """``surviving_scores`` as ONNX says it."""
    if boxes.shape[1] > candidates:
        scores = best_of_group(scores, score_threshold=score_threshold, candidates=candidates)
    chosen = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[max_kept]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )  # (N, 3): image, group, box
    nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
    return op.ScatterND(nothing, chosen, op.GatherND(scores, chosen))


class OnnxFormat:
    """Files for ONNX Runtime and for whatever else reads ONNX."""

    suffix = ".onnx"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``."""
        program = torch.onnx.export(
            deployable.program(options.batch, options.any_picture),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(deployable.facts.outputs),
            custom_translation_table={
                torch.ops.mobilevision.surviving_scores.default: translate_suppression
            },
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        left = _LEFTOVERS & {node.op_type for node in model.graph.node}
        if left:
            raise ValueError(f"{', '.join(sorted(left))} of training are left in the graph")
        model.producer_name = "mobilevision"
        onnx.helper.set_model_props(model, deployable.facts.to_strings())
        onnx.checker.check_model(model, full_check=True)
        with replaced_atomically(out) as temporary:
            onnx.save(model, temporary)
        return {"opset": OPSET, "onnx": onnx.__version__}


FORMAT = OnnxFormat()
