"""ONNX files: any number of pictures of any size, suppression by ONNX's own operator."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18

from ...datasets.files import replaced_atomically
from ...heads.detection.postprocess import FIRST_LOOK
from .deployed import Deployable
from .formats import ExportOptions
from .suppression import SUPPRESSION

OPSET = 18
op: Any = opset18  # its annotations know no values of a graph that is being built
_BOOL, _INT32, _INT64 = (
    onnx.TensorProto.BOOL, onnx.TensorProto.INT32, onnx.TensorProto.INT64
)  # fmt: skip
_AXES = ("batch", "height", "width")
_LEFTOVERS = {"BatchNormalization", "Dropout"}


def translate_suppression(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    max_kept: int,
) -> Any:
    """``surviving_scores`` as ONNX says it, as far as the best ``max_kept`` of an image go.

    As in ``PostProcess`` the best candidates of all groups together are looked at first; all of
    them only where those leave fewer than are wanted.
    """
    limits = (iou_threshold, score_threshold, max_kept)
    first = min(candidates, FIRST_LOOK * max_kept)
    if math.prod(scores.shape[1:]) <= first:
        return suppress(op, boxes, scores, *limits)
    best, _ = op.TopK(op.Flatten(scores), op.Constant(value_ints=[first]), axis=1)
    last = op.ReduceMin(best, op.Constant(value_ints=[1]))  # (B, 1)
    nothing = op.Constant(value_float=0.0)
    in_front = op.GreaterOrEqual(scores, op.Unsqueeze(last, op.Constant(value_ints=[2])))
    kept = suppress(op, boxes, op.Where(in_front, scores, nothing), *limits)
    each = op.Cast(op.Greater(op.Flatten(kept), nothing), to=_INT32)
    few = op.Less(op.ReduceSum(each, op.Constant(value_ints=[1])),
                  op.Cast(op.Constant(value_int=max_kept), to=_INT32))  # fmt: skip
    more = op.Greater(last, op.Constant(value_float=score_threshold))
    undecided = op.ReduceMax(op.Cast(op.And(few, more), to=_INT32), keepdims=0)

    def all_of_them(inner: Any) -> Any:
        limited = scores
        if scores.shape[2] > candidates:
            limited = best_of_group(inner, scores, score_threshold, candidates)
        return suppress(inner, boxes, limited, *limits)

    return op.If(
        op.Cast(undecided, to=_BOOL),
        then_branch=branch("all_candidates", all_of_them),
        else_branch=branch("first_candidates", lambda inner: inner.Identity(kept)),
    )


def suppress(
    ops: Any, boxes: Any, scores: Any, iou_threshold: float, score_threshold: float, max_kept: int
) -> Any:
    """Scores (B, G, A) with 0 for what greedy suppression removes."""
    chosen = ops.NonMaxSuppression(
        boxes,
        scores,
        ops.Constant(value_ints=[max_kept]),
        ops.Constant(value_floats=[iou_threshold]),
        ops.Constant(value_floats=[score_threshold]),
    )  # (N, 3): image, group, box
    nothing = ops.Expand(ops.Constant(value_float=0.0), ops.Shape(scores))
    return ops.ScatterND(nothing, chosen, ops.GatherND(scores, chosen))


def best_of_group(ops: Any, scores: Any, score_threshold: float, candidates: int) -> Any:
    """Scores (B, G, A) with 0 for all but the best ``candidates`` of each group.

    As many are sorted as the fullest group has above the threshold, which is mostly a few.
    """
    above = ops.Cast(ops.Greater(scores, ops.Constant(value_float=score_threshold)), to=_INT32)
    most = ops.ReduceMax(ops.ReduceSum(above, ops.Constant(value_ints=[2])), keepdims=0)
    most = ops.Min(ops.Cast(most, to=_INT64), ops.Constant(value_int=candidates))
    wanted = ops.Reshape(ops.Max(most, ops.Constant(value_int=1)), ops.Constant(value_ints=[1]))
    best, _ = ops.TopK(scores, wanted, axis=2)
    last = ops.ReduceMin(best, ops.Constant(value_ints=[2]))
    return ops.Where(ops.GreaterOrEqual(scores, last), scores, ops.Constant(value_float=0.0))


class Recorder:
    """Operators by their names, written down for a branch."""

    def __init__(self) -> None:
        self.tape = ir.tape.Tape()

    def __getattr__(self, name: str) -> Any:
        def record(*inputs: Any, **attributes: Any) -> Any:
            if name == "TopK":
                return self.tape.op_multi_out(name, inputs, attributes, num_outputs=2)
            return self.tape.op(name, inputs, attributes)

        return record


def branch(name: str, build: Callable[[Any], Any]) -> ir.Graph:
    """Return what an ``If`` does on one side; ``build`` makes its value with a ``Recorder``."""
    recorder = Recorder()
    value = build(recorder)
    return ir.Graph([], [value], nodes=recorder.tape.nodes, name=name)


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
        name_axes(model)
        model.producer_name = "mobilevision"
        onnx.helper.set_model_props(model, deployable.facts.to_strings())
        onnx.checker.check_model(model, full_check=True)
        with replaced_atomically(out) as temporary:
            onnx.save(model, temporary)
        return {"opset": OPSET, "onnx": onnx.__version__}


FORMAT = OnnxFormat()
