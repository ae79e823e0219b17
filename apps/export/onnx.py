"""ONNX files, in float32 or int8: any number of images of any size, ONNX's own NMS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import opset18

from ...datasets.files import replaced_atomically
from ...heads.detection.postprocess import FIRST_LOOK
from .export_module import Deployable
from .formats import ExportOptions
from .nms import MULTICLASS_NMS
from .quantization import quantize, report_notes, with_provenance

op: Any = opset18  # its annotations know no values of a graph that is being built
_FILTERS = 64
"""Filters of a pointwise convolution that one thread of ONNX Runtime takes on at least."""
_ROWS = 15
"""Rows of the result that share a window of the image. Fewer make products of matrices slow,
more make them multiply zeros."""
_ONE_LEVEL = np.float32(1 - 4e-6)
"""A step of uint8: halves, which torch rounds up, are just above the middle, where ONNX would round
to even."""
_OUTPUTS = {"TopK": 2}
"""Operators with more than one output."""
_BOOL, _FLOAT = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
_INT32, _INT64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64


class Recorder:
    """``recorder.Add(a, b)`` writes an ``Add`` down and returns what comes out of it."""

    def __init__(self) -> None:
        self.tape = ir.tape.Tape()

    def __getattr__(self, name: str) -> Any:
        def record(*inputs: Any, **attributes: Any) -> Any:
            if name in _OUTPUTS:
                return self.tape.op_multi_out(name, inputs, attributes, num_outputs=_OUTPUTS[name])
            return self.tape.op(name, inputs, attributes)

        return record


def speed_up(model: ir.Model) -> None:
    """Run every pass on a graph in float32, in place."""
    resize_as_torch(model)
    pool_without_reordering(model)
    share_rows_between_threads(model)


def resize_as_torch(model: ir.Model) -> None:
    """Resize (B, C, H, W) uint8 images across and then down, by products of matrices.

    This buys torch's pixels at the edges, where the exporter's own ``Resize`` weighs what is not
    there, and time: 0.983 for going across row by row and 0.985 to 0.990 for the products. Other
    runtimes that read ONNX get the same pixels. OpenVINO's files are made of the exporter's
    ``Resize``, see ``openvino``.
    """
    for node in list(model.graph):
        antialias = node.attributes.get("antialias")
        if node.op_type != "Resize" or antialias is None or not antialias.as_int():
            continue
        pixels, resized = node.inputs[0], node.outputs[0]
        assert resized.shape is not None
        channels, height, width = (int(side) for side in resized.shape[1:])  # type: ignore[arg-type]
        ops = Recorder()
        across = _resize_across(ops, pixels, node.attributes, (channels, width))
        down = _resize_down(ops, across, (channels, height, width))
        ir.convenience.replace_all_uses_with(resized, down)
        model.graph.insert_before(node, ops.tape.nodes)
        model.graph.remove(node, safe=True)


def _resize_across(ops: Any, pixels: Any, attributes: Any, shape: tuple[int, int]) -> Any:
    """(B, C, H, W) to (B, C, H, width).

    Exporters leave ``exclude_outside`` at its default, with which an edge weighs as if its last
    pixel went on; torch looks at what is there. Threads of ONNX Runtime share the channels of what
    is resized, and three are hard to share: across, each row may as well be a channel.
    """
    channels, width = shape
    rows = ops.Reshape(pixels, _ints(ops, 0, -1, 1, 0))
    options = {**attributes, "exclude_outside": 1, "axes": [3]}
    resized = ops.Resize(rows, None, None, _ints(ops, width), **options)
    return ops.Reshape(resized, _ints(ops, 0, channels, -1, width))


def _resize_down(ops: Any, maps: Any, shape: tuple[int, int, int]) -> Any:
    """(B, C, H, width) uint8 to (B, C, height, width) uint8.

    A product of matrices, which is calculated for many pixels at once where ``Resize`` takes them
    one by one. A few rows at a time, since others would be multiplied by zeros.
    """
    channels, height, width = shape
    taps, shares = _resize_windows(ops, ops.Shape(maps, start=2, end=3), height)
    windows = _as_float(ops, ops.Gather(maps, taps, axis=2))
    level = _constant(ops, _ONE_LEVEL)
    rounded = ops.QuantizeLinear(ops.MatMul(shares, windows), level, _constant(ops, np.uint8(0)))
    return ops.Reshape(rounded, _ints(ops, 0, channels, height, width))


def _resize_windows(ops: Any, given: Any, wanted: int) -> tuple[Any, Any]:
    """Which of ``given`` rows are looked at for each group of ``wanted`` rows, and their shares.

    With s = given / wanted, row i weighs max(0, 1 - |i + 0.5 - s (j + 0.5)| / max(s, 1)) in row j.
    Positions are counted in halves of 1 / wanted, and so are whole numbers.

    Args:
        ops: Writes operators down.
        given: (1,) int64.
        wanted: Rows of the result.

    Returns:
        Rows (groups, taps) int64; shares (groups, rows of a group, taps) float32, which sum to 1.
    """
    each = pixels_of_group(wanted, _ROWS)
    centre = 2 * np.arange(wanted) + 1  # times given
    reach = ops.Max(given, _ints(ops, wanted))  # times 2
    span = ops.Add(ops.Mul(given, _ints(ops, each - 1)), ops.Mul(reach, _ints(ops, 2)))
    taps = ops.Div(ops.Add(span, _ints(ops, 2 * wanted - 1)), _ints(ops, wanted))
    taps = ops.Min(taps, given)
    before = ops.Sub(ops.Mul(reach, _ints(ops, 2)), _ints(ops, wanted))
    first = ops.Sub(ops.Mul(given, _constant(ops, centre[::each, None])), before)
    first = ops.Div(ops.Max(first, _ints(ops, 0)), _ints(ops, 2 * wanted))
    first = ops.Min(first, ops.Sub(given, taps))
    number = ops.Range(_int(ops, 0), ops.Squeeze(taps), _int(ops, 1))
    rows = ops.Add(first, number)
    there = _as_float(ops, ops.Add(ops.Mul(rows, _ints(ops, 2 * wanted)), _ints(ops, wanted)))
    there = ops.Unsqueeze(there, _ints(ops, 1))
    centers = centre.reshape(-1, each, 1).astype(np.float32)
    apart = ops.Abs(ops.Sub(there, ops.Mul(_as_float(ops, given), _constant(ops, centers))))
    inside = ops.Relu(ops.Sub(_as_float(ops, ops.Mul(reach, _ints(ops, 2))), apart))
    return rows, ops.Div(inside, ops.ReduceSum(inside, _ints(ops, 2)))


def pixels_of_group(wanted: int, near: int) -> int:
    """What divides the rows or columns of a result and comes nearest to a number, as a ratio."""
    divisors = (each for each in range(1, wanted + 1) if wanted % each == 0)
    return min(divisors, key=lambda each: max(each / near, near / each))


def pool_without_reordering(model: ir.Model) -> None:
    """Write averages of whole maps as ``GlobalAveragePool``.

    This buys not copying the map: ONNX Runtime pools in the layout of its convolutions, but brings
    maps into the usual one before a ``ReduceMean``. A face network takes 0.967 of the time with
    this, the parts of ``share_rows_between_threads`` and the division of pixels in the weights.
    """
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or _axes(node) != [2, 3]:
            continue
        ops = Recorder()
        pooled = ops.GlobalAveragePool(node.inputs[0])
        _replace(model, [node], pooled if _keeps_axes(node) else ops.Flatten(pooled), ops)


def share_rows_between_threads(model: ir.Model) -> None:
    """Divide pointwise convolutions of 65 to 128 filters before a depthwise one with a stride.

    This buys 0.972 to 0.985 of the time. ONNX Runtime gives each of two threads one half of the
    filters, and either reads the whole map, of which the other has just written one half. In parts
    of 64 filters the threads share rows instead. What follows works channel by channel, and behind
    its stride the parts are small enough to be put together again.
    """
    for node in list(model.graph):
        chain = _chain(node)
        if chain is None:
            continue
        filters = len(_values(node.inputs[1]))
        if not _FILTERS < filters <= 2 * _FILTERS or max(_stride(chain[2])) < 2:
            continue
        ops = Recorder()
        bounds = ((0, _FILTERS), (_FILTERS, filters))
        parts = [_part(ops, chain, slice(*bound)) for bound in bounds]
        _replace(model, chain, ops.Concat(*parts, axis=1), ops)


def _chain(node: ir.Node) -> list[ir.Node] | None:
    """A pointwise convolution, its activation, a depthwise one and its, if nothing branches off."""
    if not _is_convolution(node) or _group(node) != 1:
        return None
    if _values(node.inputs[1]).shape[2:] != (1, 1):
        return None
    chain = [node]
    for kinds in (("Relu", "Clip"), ("Conv",), ("Relu", "Clip")):
        value = chain[-1].outputs[0]
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].idx != 0 or value.is_graph_output():
            return None
        if uses[0].node.op_type not in kinds:
            return None
        chain.append(uses[0].node)
    depthwise, channels = chain[2], len(_values(node.inputs[1]))
    if not _is_convolution(depthwise) or _group(depthwise) != channels:
        return None
    return chain if len(_values(depthwise.inputs[1])) == channels else None


def _part(ops: Any, chain: list[ir.Node], channels: slice) -> Any:
    """The chain for some of its filters."""
    value = chain[0].inputs[0]
    for node in chain:
        attributes = dict(node.attributes)
        rest = list(node.inputs[1:])
        if node.op_type == "Conv":
            rest = [_constant(ops, _values(each)[channels]) for each in rest]
            if _group(node) > 1:
                attributes["group"] = ir.AttrInt64("group", channels.stop - channels.start)
        value = getattr(ops, node.op_type)(value, *rest, **attributes)
    return value


def _replace(model: ir.Model, nodes: list[ir.Node], new: ir.Value, ops: Recorder) -> None:
    """Put what was written down in the place of nodes, of which the last one's output is used."""
    old = nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.insert_before(nodes[-1], ops.tape.nodes)
    model.graph.remove(reversed(nodes), safe=True)


def _is_convolution(node: ir.Node) -> bool:
    """Whether it is one whose weights are known."""
    known = (each is not None and each.const_value is not None for each in node.inputs[1:])
    return node.op_type == "Conv" and all(known)


def _values(value: ir.Value | None) -> np.ndarray:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def _group(node: ir.Node) -> int:
    group = node.attributes.get("group")
    return 1 if group is None else group.as_int()


def _stride(node: ir.Node) -> tuple[int, ...]:
    strides = node.attributes.get("strides")
    return (1,) if strides is None else tuple(strides.as_ints())


def _keeps_axes(node: ir.Node) -> bool:
    kept = node.attributes.get("keepdims")
    return kept is None or bool(kept.as_int())


def _axes(node: ir.Node) -> list[int]:
    """Which axes of (B, C, H, W) are reduced, if they are known."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = None if given is None else ir.convenience.get_const_tensor(given)
    if tensor is None or node.inputs[0] is None or node.inputs[0].shape is None:
        return []
    rank = len(node.inputs[0].shape)
    return sorted(int(axis) % rank for axis in tensor.numpy().reshape(-1))


def translate_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> Any:
    """``multiclass_nms`` in ONNX, with ONNX's own ``NonMaxSuppression``.

    As in ``PostProcess`` the best candidates of all groups together are looked at first; all of
    them only where those leave fewer than are wanted. Sorting the best boxes alone, and predicting
    boxes and classes in one convolution, take 0.981 of the time. A single group is small: all of it
    is looked at.
    """
    limits = (iou_threshold, score_threshold, candidates, wanted)
    graph = NmsGraph(boxes, scores, op.Flatten(scores), *limits)
    count, groups = scores.shape[1:]
    first = min(candidates, FIRST_LOOK * wanted)
    if groups == 1 or first < wanted:
        places = graph.of_all(op)
    elif groups * count <= first:
        places, _ = graph.of_the_best(op, groups * count)
    else:
        places, undecided = graph.of_the_best(op, first)
        places = op.If(
            undecided,
            then_branch=branch("all_candidates", graph.of_all),
            else_branch=branch("first_candidates", lambda inner: inner.Identity(places)),
        )
    nothing = op.Constant(value_float=0.0)
    there = op.GreaterOrEqual(places, _int(op, 0))
    index = op.Max(places, _int(op, 0))
    best = op.GatherElements(graph.flat, index, axis=1)
    of_group = _int(op, groups)
    return op.Where(there, best, nothing), op.Div(index, of_group), op.Mod(index, of_group)


@dataclass(frozen=True)
class NmsGraph:
    """Graphs that say which candidates survive.

    Attributes:
        flat: (B, A * G): the scores as ``multiclass_nms`` counts their places.

    The others are the arguments of ``multiclass_nms``; the numbers of groups and of boxes are
    known.
    """

    boxes: Any
    scores: Any
    flat: Any
    iou_threshold: float
    score_threshold: float
    candidates: int
    wanted: int

    def of_the_best(self, ops: Any, first: int) -> tuple[Any, Any]:
        """Look at the best ``first`` of an image alone, which are few enough to be moved together.

        Returns:
            (B, wanted) places among all scores, -1 where there is nothing more; and whether other
            candidates could still be among those of any image.
        """
        groups = self.scores.shape[2]
        last_axis, second_axis = _ints(ops, -1), _ints(ops, 1)
        rows, scores = self._best_rows(ops, first)
        flat = ops.Reshape(scores, _ints(ops, 0, -1))
        best, which = ops.TopK(flat, _ints(ops, first), axis=1, sorted=0)  # (B, first), any order
        of_best = ops.Div(which, _int(ops, groups))
        if rows is not None:
            of_best = ops.GatherElements(rows, of_best, axis=1)
        group = ops.Mod(which, _int(ops, groups))
        boxes = ops.GatherND(self.boxes, ops.Unsqueeze(of_best, last_axis), batch_dims=1)
        shape = ops.Concat(ops.Shape(best, end=1), _ints(ops, groups, first), axis=0)
        by_group = ops.ScatterElements(  # (B, G, first): each has a score in its own group alone
            ops.Expand(ops.Constant(value_float=0.0), shape),
            ops.Unsqueeze(group, second_axis),
            ops.Unsqueeze(best, second_axis),
            axis=1,
        )
        chosen = self._nms(ops, boxes, by_group)
        chosen = ops.Gather(chosen, _ints(ops, 0, 2), axis=1)  # each is of one group
        kept, place = self._best(ops, best, chosen)
        index = ops.Add(ops.Mul(of_best, _int(ops, groups)), group)
        places = ops.GatherElements(index, place, axis=1)
        fewest = ops.ReduceMin(kept, second_axis)  # (B, 1)
        more = ops.Greater(
            ops.ReduceMin(best, second_axis), ops.Constant(value_float=self.score_threshold)
        )
        few = ops.Equal(fewest, ops.Constant(value_float=0.0))
        undecided = ops.ReduceMax(ops.Cast(ops.And(few, more), to=_INT32), keepdims=0)
        return self._marked(ops, kept, places), ops.Cast(undecided, to=_BOOL)

    def _best_rows(self, ops: Any, first: int) -> tuple[Any, Any]:
        """Rows (B, first) whose best score of any group is among the best, and their scores.

        The best ``first`` scores of an image are all in them, and sorting those takes a fraction of
        what sorting all would. No rows where all of them are meant.
        """
        if self.scores.shape[1] <= first:
            return None, self.scores
        best = ops.ReduceMax(self.scores, _ints(ops, 2), keepdims=0)
        _, rows = ops.TopK(best, _ints(ops, first), axis=1, sorted=0)
        places = ops.Unsqueeze(rows, _ints(ops, -1))
        return rows, ops.GatherND(self.scores, places, batch_dims=1)

    def of_all(self, ops: Any) -> Any:
        """Look at every candidate; places as of ``of_the_best``."""
        scores, flat = self.scores, self.flat
        if scores.shape[1] > self.candidates:
            scores = best_of_group(ops, scores, self.score_threshold, self.candidates)
            # Not Flatten: torch's optimizer loses constants of what it makes of it in a branch.
            flat = ops.Reshape(scores, ops.Shape(flat))
        chosen = self._nms(ops, self.boxes, ops.Transpose(scores, perm=[0, 2, 1]))
        groups = _int(ops, self.scores.shape[2])
        image, group, row = (ops.Gather(chosen, _ints(ops, column), axis=1) for column in range(3))
        chosen = ops.Concat(image, ops.Add(ops.Mul(row, groups), group), axis=1)
        return self._marked(ops, *self._best(ops, flat, chosen))

    def _nms(self, ops: Any, boxes: Any, scores: Any) -> Any:
        """(N, 3): image, group and box of what greedy NMS leaves of scores (B, G, A)."""
        return ops.NonMaxSuppression(
            boxes,
            scores,
            _ints(ops, self.wanted),
            ops.Constant(value_floats=[self.iou_threshold]),
            ops.Constant(value_floats=[self.score_threshold]),
        )

    def _best(self, ops: Any, scores: Any, chosen: Any) -> tuple[Any, Any]:
        """The best of scores (B, M) at the places (N, 2) that were chosen, 0 behind them."""
        nothing = ops.Expand(ops.Constant(value_float=0.0), ops.Shape(scores))
        kept = ops.ScatterND(nothing, chosen, ops.GatherND(scores, chosen))
        return ops.TopK(kept, _ints(ops, self.wanted), axis=1)

    def _marked(self, ops: Any, kept: Any, places: Any) -> Any:
        there = ops.Greater(kept, ops.Constant(value_float=0.0))
        return ops.Where(there, places, _int(ops, -1))


def best_of_group(ops: Any, scores: Any, score_threshold: float, candidates: int) -> Any:
    """Scores (B, A, G) with 0 for all but the best ``candidates`` of each group.

    As many are sorted as the fullest group has above the threshold, which is mostly a few.
    """
    above = ops.Cast(ops.Greater(scores, ops.Constant(value_float=score_threshold)), to=_INT32)
    most = ops.ReduceMax(ops.ReduceSum(above, _ints(ops, 1)), keepdims=0)
    most = ops.Min(ops.Cast(most, to=_INT64), _int(ops, candidates))
    wanted = ops.Reshape(ops.Max(most, _int(ops, 1)), _ints(ops, 1))
    best, _ = ops.TopK(scores, wanted, axis=1)
    last = ops.ReduceMin(best, _ints(ops, 1))
    return ops.Where(ops.GreaterOrEqual(scores, last), scores, ops.Constant(value_float=0.0))


def branch(name: str, build: Callable[[Any], Any]) -> ir.Graph:
    """Return what an ``If`` does on one side; ``build`` makes its value with a ``Recorder``."""
    recorder = Recorder()
    value = build(recorder)
    return ir.Graph([], [value], nodes=recorder.tape.nodes, name=name)


def _ints(ops: Any, *numbers: int) -> Any:
    """1-D int64."""
    return ops.Constant(value_ints=list(numbers))


def _int(ops: Any, number: int) -> Any:
    """Scalar int64."""
    return ops.Constant(value_int=number)


def _constant(ops: Any, value: Any) -> Any:
    return ops.Constant(value=ir.tensor(np.asarray(value)))


def _as_float(ops: Any, value: Any) -> Any:
    return ops.Cast(value, to=_FLOAT)


OPSET = 18
_AXES = ("batch", "height", "width")
_LEFTOVERS = {"BatchNormalization", "Dropout"}


def name_axes(model: onnx.ModelProto) -> None:
    """Call the open axes of the images by their names, wherever they come up again."""
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
                report = quantize(path, out, deployable.metadata.size_hw, options.int8)
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
        deployable.program(options.batch, options.any_image),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(deployable.metadata.outputs),
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
    onnx.helper.set_model_props(model, deployable.metadata.to_strings())
    onnx.checker.check_model(model, full_check=True)
    return model
