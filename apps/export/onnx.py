"""ONNX files: any number of pictures of any size, suppression by ONNX's own operator."""

from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset18

from ...datasets.files import replaced_atomically
from .deployed import Deployable
from .formats import ExportOptions
from .suppression import SUPPRESSION

OPSET = 18
op: Any = opset18  # its annotations know no values of a graph that is being built
_INT32, _INT64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64
_LEFTOVERS = {"BatchNormalization", "Dropout"}


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
        scores = best_of_group(scores, score_threshold, candidates)
    chosen = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[max_kept]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )  # (N, 3): image, group, box
    nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
    return op.ScatterND(nothing, chosen, op.GatherND(scores, chosen))


def best_of_group(scores: Any, score_threshold: float, candidates: int) -> Any:
    """Scores (B, G, A) with 0 for all but the best ``candidates`` of each group.

    As many are sorted as the fullest group has above the threshold, which is mostly a few.
    """
    above = op.Cast(op.Greater(scores, op.Constant(value_float=score_threshold)), to=_INT32)
    most = op.ReduceMax(op.ReduceSum(above, op.Constant(value_ints=[2])), keepdims=0)
    most = op.Min(op.Cast(most, to=_INT64), op.Constant(value_int=candidates))
    wanted = op.Reshape(op.Max(most, op.Constant(value_int=1)), op.Constant(value_ints=[1]))
    best, _ = op.TopK(scores, wanted, axis=2)
    last = op.ReduceMin(best, op.Constant(value_ints=[2]))
    return op.Where(op.GreaterOrEqual(scores, last), scores, op.Constant(value_float=0.0))


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
            custom_translation_table={SUPPRESSION: translate_suppression},
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
