"""ONNX files in float32 or int8: any number of images of any size, with ONNX's own NMS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import opset18

from ...datasets.files import replaced_atomically
from ...heads.detection.boxes import FIRST_LOOK
from .export_module import Deployable
from .formats import ExportOptions
from .nms import MULTICLASS_NMS
from .quantization import quantize, report_notes, with_provenance

OPSET = 18
op: Any = opset18  # its annotations do not allow values of a graph under construction
_FILTERS = 64
"""Minimum number of filters of a pointwise convolution that a thread of ONNX Runtime takes."""
_ROWS = 15
"""Output rows that share a window of the image. With fewer, matrix products are slow; with more,
they multiply more zeros."""
_ONE_LEVEL = np.float32(1 - 4e-6)
"""A step of uint8. Halves, which torch rounds up, become slightly more than a half, because ONNX
rounds halves to even."""
_ON_VALUES = {"Add", "Sub", "Mul", "Div", "Min", "Max"}
_SHORT = 8
"""Columns up to which constants are repeated over the rows."""
_OUTPUTS = {"TopK": 2}
"""Operators with more than one output."""
_LEFTOVERS = {"BatchNormalization", "Dropout"}
_BOOL, _FLOAT = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
_INT32, _INT64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64


class Recorder:
    """A recorder of nodes: ``recorder.Add(a, b)`` records an ``Add`` and returns its output."""

    def __init__(self) -> None:
        self.tape = ir.tape.Tape()

    def __getattr__(self, name: str) -> Any:
        def record(*inputs: Any, **attributes: Any) -> Any:
            if name in _OUTPUTS:
                return self.tape.op_multi_out(name, inputs, attributes, num_outputs=_OUTPUTS[name])
            return self.tape.op(name, inputs, attributes)

        return record


def speed_up(model: ir.Model) -> None:
    """Run every pass on a float32 graph, in place."""
    resize_as_torch(model)
    upsample_by_factors(model)
    spread_short_constants(model)
    pool_without_reordering(model)
    share_rows_between_threads(model)


def resize_as_torch(model: ir.Model) -> None:
    """Resize (B, C, H, W) uint8 images horizontally and then vertically, by matrix products.

    Benefit: torch's pixels at the edges, where the exporter's own ``Resize`` also weighs pixels
    outside the image, in every runtime that reads ONNX; and 0.983 of the time for going row by row,
    0.985 to 0.990 for the products. To leave images alone that have the size already, in an ``If``,
    would take 0.9 to 0.97 of the time for them; but what OpenVINO 2026.4 reads after that ``If`` is
    not what the ``If`` wrote.

    Correct because a bilinear resize is separable and linear: each direction is a product with a
    matrix of triangle weights. Torch also rounds to uint8 between the directions. OpenVINO's files
    are made from the exporter's ``Resize``, see ``openvino``.
    """
    for node in list(model.graph):
        if node.op_type != "Resize" or not node.attributes.get_int("antialias", 0):
            continue
        pixels, resized = node.inputs[0], node.outputs[0]
        assert resized.shape is not None
        channels, height, width = (int(side) for side in resized.shape[1:])  # type: ignore[arg-type]
        ops = Recorder()
        across = _resize_across(ops, pixels, node.attributes, (channels, width))
        _replace(model, [node], _resize_down(ops, across, (channels, height, width)), ops)


def _resize_across(ops: Any, pixels: Any, attributes: Any, shape: tuple[int, int]) -> Any:
    """Resize (B, C, H, W) to (B, C, H, width)."""
    channels, width = shape
    # Threads of ONNX Runtime divide the channels, and three are hard to divide. Rows are
    # independent of each other here, so each of them becomes a channel.
    rows = ops.Reshape(pixels, _ints(ops, 0, -1, 1, 0))
    # By default, the last pixel is repeated beyond the edge; torch weighs only pixels of the image.
    options = {**attributes, "exclude_outside": 1, "axes": [3]}
    resized = ops.Resize(rows, None, None, _ints(ops, width), **options)
    return ops.Reshape(resized, _ints(ops, 0, channels, -1, width))


def _resize_down(ops: Any, maps: Any, shape: tuple[int, int, int]) -> Any:
    """Resize (B, C, H, width) uint8 to (B, C, height, width) uint8.

    A matrix product computes many pixels at once, where ``Resize`` takes them one by one. The rows
    are divided into groups, because most weights of a product for the whole image would be zero.
    """
    channels, height, width = shape
    taps, weights = _resize_windows(ops, ops.Shape(maps, start=2, end=3), height)
    windows = _as_float(ops, ops.Gather(maps, taps, axis=2))
    level = _constant(ops, _ONE_LEVEL)
    rounded = ops.QuantizeLinear(ops.MatMul(weights, windows), level, _constant(ops, np.uint8(0)))
    return ops.Reshape(rounded, _ints(ops, 0, channels, height, width))


def _resize_windows(ops: Any, given: Any, wanted: int) -> tuple[Any, Any]:
    """Compute the input rows of each group of output rows, and their weights.

    With s = given / wanted, input row i has the weight max(0, 1 - |i + 0.5 - s (j + 0.5)| /
    max(s, 1)) in output row j. All positions are multiplied by 2 * wanted, which makes them
    integers: the center of input row i is 2 * wanted * i + wanted, that of output row j is
    given * (2 j + 1), and the triangle reaches 2 * max(given, wanted) to either side.

    Args:
        ops: Records operators.
        given: Number of input rows, (1,) int64.
        wanted: Number of output rows.

    Returns:
        Input rows (groups, taps) int64; weights (groups, rows of a group, taps) float32, which sum
        to 1 over the taps.
    """
    each = pixels_of_group(wanted, _ROWS)
    center = 2 * np.arange(wanted) + 1  # to be multiplied by given
    reach = ops.Max(given, _ints(ops, wanted))  # half of the triangle's reach
    # Taps of a group: from the first row's reach to the last row's, rounded up.
    span = ops.Add(ops.Mul(given, _ints(ops, each - 1)), ops.Mul(reach, _ints(ops, 2)))
    taps = ops.Div(ops.Add(span, _ints(ops, 2 * wanted - 1)), _ints(ops, wanted))
    taps = ops.Min(taps, given)
    # The first input row whose center lies within the reach, moved into the image.
    before = ops.Sub(ops.Mul(reach, _ints(ops, 2)), _ints(ops, wanted))
    first = ops.Sub(ops.Mul(given, _constant(ops, center[::each, None])), before)
    first = ops.Div(ops.Max(first, _ints(ops, 0)), _ints(ops, 2 * wanted))
    first = ops.Min(first, ops.Sub(given, taps))
    rows = ops.Add(first, ops.Range(_int(ops, 0), ops.Squeeze(taps), _int(ops, 1)))
    there = _as_float(ops, ops.Add(ops.Mul(rows, _ints(ops, 2 * wanted)), _ints(ops, wanted)))
    there = ops.Unsqueeze(there, _ints(ops, 1))
    centers = center.reshape(-1, each, 1).astype(np.float32)
    apart = ops.Abs(ops.Sub(there, ops.Mul(_as_float(ops, given), _constant(ops, centers))))
    inside = ops.Relu(ops.Sub(_as_float(ops, ops.Mul(reach, _ints(ops, 2))), apart))
    return rows, ops.Div(inside, ops.ReduceSum(inside, _ints(ops, 2)))


def pixels_of_group(wanted: int, near: int) -> int:
    """Return the divisor of ``wanted`` whose ratio to ``near`` is closest to 1."""
    divisors = (each for each in range(1, wanted + 1) if wanted % each == 0)
    return min(divisors, key=lambda each: max(each / near, near / each))


def upsample_by_factors(model: ir.Model) -> None:
    """Write the repetition of pixels, as in a feature pyramid, with factors in place of sizes.

    Benefit: ONNX Runtime repeats pixels in the blocked layout of its convolutions only by constant
    factors, and else reorders the maps of a pyramid there and back.

    Correct because the sizes of the maps are known and multiples of each other.
    """
    for node in list(model.graph):
        if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
            continue
        shapes = [value.shape for value in (node.inputs[0], node.outputs[0]) if value is not None]
        if any(shape is None for shape in shapes):
            continue
        sides: Any = [[shape[axis] for axis in (2, 3)] for shape in shapes]  # type: ignore[index]
        given, wanted = sides
        if not all(isinstance(side, int) for side in (*given, *wanted)):
            continue
        if any(after % before for before, after in zip(given, wanted, strict=True)):
            continue
        factors = [1.0, 1.0, *(b / a for a, b in zip(given, wanted, strict=True))]
        ops = Recorder()
        scales = _constant(ops, np.array(factors, np.float32))
        new = ops.Resize(node.inputs[0], None, scales, **node.attributes)
        _replace(model, [node], new, ops)


def spread_short_constants(model: ir.Model) -> None:
    """Repeat constants of a few columns, such as the limits of boxes, over all rows.

    Benefit: an eighth of an operator's time. ONNX Runtime works on runs of values that need no
    repetition, and in rows of four these are short. It repeats constants itself when a file is
    opened, so that the file does not grow.

    Correct because operators on single values repeat their inputs in the same way.
    """
    for node in list(model.graph):
        shape = node.outputs[0].shape if node.op_type in _ON_VALUES else None
        if shape is None or len(shape) < 2 or not all(isinstance(side, int) for side in shape[-2:]):
            continue
        rows, columns = (int(side) for side in shape[-2:])  # type: ignore[arg-type]
        for place, value in enumerate(node.inputs):
            constant = None if value is None else ir.convenience.get_const_tensor(value)
            short = constant is not None and list(constant.shape) == [columns]
            if not short or columns > _SHORT or rows <= columns:
                continue
            ops = Recorder()
            node.replace_input_with(place, ops.Expand(value, _ints(ops, rows, columns)))
            model.graph.insert_before(node, ops.tape.nodes)


def pool_without_reordering(model: ir.Model) -> None:
    """Write means over whole maps as ``GlobalAveragePool``.

    Benefit: the map is not copied. ONNX Runtime pools in the blocked layout of its convolutions,
    but reorders maps before a ``ReduceMean``. A face network takes 0.967 of the time with this,
    ``share_rows_between_threads`` and the division of pixels in the weights.

    Correct because both are the mean over both axes of a (B, C, H, W) map.
    """
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or _axes(node) != [2, 3]:
            continue
        ops = Recorder()
        pooled = ops.GlobalAveragePool(node.inputs[0])
        keeps_axes = node.attributes.get_int("keepdims", 1)
        _replace(model, [node], pooled if keeps_axes else ops.Flatten(pooled), ops)


def share_rows_between_threads(model: ir.Model) -> None:
    """Divide pointwise convolutions of 65 to 128 filters before a depthwise one with a stride.

    Benefit: 0.972 to 0.985 of the time. ONNX Runtime gives each of two threads half of the filters,
    and each reads the whole map, half of which the other thread has just written. In parts of 64
    filters, the threads divide the rows instead.

    Correct because activations and depthwise convolutions keep channels apart: the parts may be
    concatenated after them, where the stride has made them small.
    """
    for node in list(model.graph):
        chain = _chain(node)
        if chain is None:
            continue
        filters = len(_values(node.inputs[1]))
        strides = chain[2].attributes.get_ints("strides", (1,))
        if not _FILTERS < filters <= 2 * _FILTERS or max(strides) < 2:
            continue
        ops = Recorder()
        bounds = ((0, _FILTERS), (_FILTERS, filters))
        parts = [_part(ops, chain, slice(*bound)) for bound in bounds]
        _replace(model, chain, ops.Concat(*parts, axis=1), ops)


def _chain(node: ir.Node) -> list[ir.Node] | None:
    """Find a pointwise and a depthwise convolution with their activations, without branches."""
    if not _is_convolution(node) or node.attributes.get_int("group", 1) != 1:
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
    if not _is_convolution(depthwise) or depthwise.attributes.get_int("group", 1) != channels:
        return None
    return chain if len(_values(depthwise.inputs[1])) == channels else None


def _part(ops: Any, chain: list[ir.Node], channels: slice) -> Any:
    """Record a chain for some of its filters."""
    value = chain[0].inputs[0]
    for node in chain:
        attributes, rest = dict(node.attributes), list(node.inputs[1:])
        if node.op_type == "Conv":
            rest = [_constant(ops, _values(each)[channels]) for each in rest]
            if node.attributes.get_int("group", 1) > 1:
                attributes["group"] = ir.AttrInt64("group", channels.stop - channels.start)
        value = getattr(ops, node.op_type)(value, *rest, **attributes)
    return value


def _replace(model: ir.Model, nodes: list[ir.Node], new: ir.Value, ops: Recorder) -> None:
    """Replace nodes, of which only the last one's output is used, by recorded ones."""
    old = nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.insert_before(nodes[-1], ops.tape.nodes)
    model.graph.remove(reversed(nodes), safe=True)


def _is_convolution(node: ir.Node) -> bool:
    """Return whether a node is a convolution with constant weights."""
    known = (each is not None and each.const_value is not None for each in node.inputs[1:])
    return node.op_type == "Conv" and all(known)


def _values(value: ir.Value | None) -> np.ndarray:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def _axes(node: ir.Node) -> list[int]:
    """Return the reduced axes of a reduction, empty if they are not known."""
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
    """Translate ``multiclass_nms`` to ONNX, with ONNX's own ``NonMaxSuppression``.

    As in ``PostProcess``, NMS runs on the best candidates of all groups together, and on all
    candidates only if fewer than the wanted boxes survive. Sorting only the best boxes, together
    with predicting boxes and classes in one convolution, takes 0.981 of the time. A single group is
    small enough to run on all of it.
    """
    limits = (iou_threshold, score_threshold, candidates, wanted)
    graph = NmsGraph(boxes, scores, op.Flatten(scores), *limits)
    count, groups = scores.shape[1:]
    first = min(candidates, FIRST_LOOK * wanted)
    if groups == 1 and count > candidates >= wanted:
        places = graph.of_one_group(op)
    elif groups == 1 or first < wanted:
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
    there = op.GreaterOrEqual(places, _int(op, 0))
    index = op.Max(places, _int(op, 0))  # padding reads place 0, and its score is replaced below
    best = op.GatherElements(graph.flat, index, axis=1)
    of_group = _int(op, groups)
    scores = op.Where(there, best, op.Constant(value_float=0.0))
    return scores, op.Div(index, of_group), op.Mod(index, of_group)


@dataclass(frozen=True)
class NmsGraph:
    """Graphs that compute which candidates survive NMS.

    Attributes:
        flat: (B, A * G): the scores flattened; places are indices into it.

    The others are the arguments of ``multiclass_nms``, with known numbers of groups and boxes.
    """

    boxes: Any
    scores: Any
    flat: Any
    iou_threshold: float
    score_threshold: float
    candidates: int
    wanted: int

    def of_the_best(self, ops: Any, first: int) -> tuple[Any, Any]:
        """Run NMS on the ``first`` best candidates of each image.

        Returns:
            (B, wanted) places, -1 for padding; and whether further candidates could be among the
            wanted boxes of any image.
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
        # ONNX's NMS wants the scores of all boxes in all groups, (B, G, first): each candidate has
        # its score in its own group and 0, which is never above the threshold, in the others.
        shape = ops.Concat(ops.Shape(best, end=1), _ints(ops, groups, first), axis=0)
        nothing = ops.Expand(ops.Constant(value_float=0.0), shape)
        places, values = (ops.Unsqueeze(each, second_axis) for each in (group, best))
        by_group = ops.ScatterElements(nothing, places, values, axis=1)
        chosen = self._nms(ops, boxes, by_group)
        chosen = ops.Gather(chosen, _ints(ops, 0, 2), axis=1)  # each is of one group
        kept, place = self._best(ops, best, chosen)
        index = ops.Add(ops.Mul(of_best, _int(ops, groups)), group)
        places = ops.GatherElements(index, place, axis=1)
        # Undecided: fewer than the wanted boxes are kept, and the worst candidate is above the
        # threshold, so that there may be more.
        few = ops.Equal(ops.ReduceMin(kept, second_axis), ops.Constant(value_float=0.0))  # (B, 1)
        threshold = ops.Constant(value_float=self.score_threshold)
        more = ops.Greater(ops.ReduceMin(best, second_axis), threshold)
        undecided = ops.ReduceMax(ops.Cast(ops.And(few, more), to=_INT32), keepdims=0)
        return self._marked(ops, kept, places), ops.Cast(undecided, to=_BOOL)

    def _best_rows(self, ops: Any, first: int) -> tuple[Any, Any]:
        """Return the rows (B, first) with the best maximum over the groups, and their scores.

        The best ``first`` scores of an image are all in these rows, and sorting the rows takes a
        fraction of sorting all scores. The rows are None if there are not more.
        """
        if self.scores.shape[1] <= first:
            return None, self.scores
        best = ops.ReduceMax(self.scores, _ints(ops, 2), keepdims=0)
        _, rows = ops.TopK(best, _ints(ops, first), axis=1, sorted=0)
        places = ops.Unsqueeze(rows, _ints(ops, -1))
        return rows, ops.GatherND(self.scores, places, batch_dims=1)

    def of_all(self, ops: Any) -> Any:
        """Run NMS on every candidate; return places as ``of_the_best`` does."""
        scores, flat = self.scores, self.flat
        if scores.shape[1] > self.candidates:
            scores = best_of_group(ops, scores, self.score_threshold, self.candidates)
            # Not Flatten: torch's optimizer loses the constants that it makes of it in a branch.
            flat = ops.Reshape(scores, ops.Shape(flat))
        chosen = self._nms(ops, self.boxes, ops.Transpose(scores, perm=[0, 2, 1]))
        groups = _int(ops, self.scores.shape[2])
        image, group, row = (ops.Gather(chosen, _ints(ops, column), axis=1) for column in range(3))
        chosen = ops.Concat(image, ops.Add(ops.Mul(row, groups), group), axis=1)
        return self._marked(ops, *self._best(ops, flat, chosen))

    def of_one_group(self, ops: Any) -> Any:
        """Run NMS on all candidates of a single group; return places as ``of_the_best`` does.

        Whatever follows the threshold works on these alone, which are usually few.
        """
        threshold = ops.Constant(value_floats=[self.score_threshold])
        most = _most_above(ops, self.flat, threshold)
        most = ops.Min(ops.Max(most, _int(ops, self.wanted)), _int(ops, self.candidates))
        best, rows = ops.TopK(self.flat, ops.Reshape(most, _ints(ops, 1)), axis=1, sorted=0)
        boxes = ops.GatherND(self.boxes, ops.Unsqueeze(rows, _ints(ops, -1)), batch_dims=1)
        chosen = self._nms(ops, boxes, ops.Unsqueeze(best, _ints(ops, 1)))
        kept, places = self._best(ops, best, ops.Gather(chosen, _ints(ops, 0, 2), axis=1))
        return self._marked(ops, kept, ops.GatherElements(rows, places, axis=1))

    def _nms(self, ops: Any, boxes: Any, scores: Any) -> Any:
        """Run greedy NMS on scores (B, G, A); return image, group and box of the kept, (N, 3)."""
        limits = (self.iou_threshold, self.score_threshold)
        thresholds = (ops.Constant(value_floats=[limit]) for limit in limits)
        return ops.NonMaxSuppression(boxes, scores, _ints(ops, self.wanted), *thresholds)

    def _best(self, ops: Any, scores: Any, chosen: Any) -> tuple[Any, Any]:
        """Return the best of scores (B, M) at the places (N, 2) of ``chosen``, padded with 0."""
        nothing = ops.Expand(ops.Constant(value_float=0.0), ops.Shape(scores))
        kept = ops.ScatterND(nothing, chosen, ops.GatherND(scores, chosen))
        return ops.TopK(kept, _ints(ops, self.wanted), axis=1)

    def _marked(self, ops: Any, kept: Any, places: Any) -> Any:
        there = ops.Greater(kept, ops.Constant(value_float=0.0))
        return ops.Where(there, places, _int(ops, -1))


def best_of_group(ops: Any, scores: Any, score_threshold: float, candidates: int) -> Any:
    """Set scores (B, A, G) to 0 except for the best ``candidates`` of each group.

    TopK sorts only as many as the fullest group has above the threshold, which are usually few.
    """
    most = _most_above(ops, scores, ops.Constant(value_float=score_threshold))
    most = ops.Min(most, _int(ops, candidates))
    wanted = ops.Reshape(ops.Max(most, _int(ops, 1)), _ints(ops, 1))
    best, _ = ops.TopK(scores, wanted, axis=1)
    last = ops.ReduceMin(best, _ints(ops, 1))
    return ops.Where(ops.GreaterOrEqual(scores, last), scores, ops.Constant(value_float=0.0))


def _most_above(ops: Any, scores: Any, threshold: Any) -> Any:
    """Count scores (B, A, ...) above a threshold over A; return the largest count, a scalar."""
    above = ops.Cast(ops.Greater(scores, threshold), to=_INT32)
    most = ops.ReduceMax(ops.ReduceSum(above, _ints(ops, 1)), keepdims=0)
    return ops.Cast(most, to=_INT64)


def branch(name: str, build: Callable[[Any], Any]) -> ir.Graph:
    """Return a branch of an ``If``; ``build`` makes its value with a ``Recorder``."""
    recorder = Recorder()
    value = build(recorder)
    # Left to itself, a branch counts its values from 0, and so does the graph around it.
    for number, node in enumerate(recorder.tape.nodes):
        for place, output in enumerate(node.outputs):
            output.name = f"{name}_{number}_{place}"
    return ir.Graph([], [value], nodes=recorder.tape.nodes, name=name)


def _ints(ops: Any, *numbers: int) -> Any:
    """Return a 1-D int64 constant."""
    return ops.Constant(value_ints=list(numbers))


def _int(ops: Any, number: int) -> Any:
    """Return a scalar int64 constant."""
    return ops.Constant(value_int=number)


def _constant(ops: Any, value: Any) -> Any:
    return ops.Constant(value=ir.tensor(np.asarray(value)))


def _as_float(ops: Any, value: Any) -> Any:
    return ops.Cast(value, to=_FLOAT)


def name_axes(model: onnx.ModelProto) -> None:
    """Name the open axes of the images, wherever they occur in the graph."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    axes = zip(dims, ("batch", "height", "width"), strict=False)
    names = {dim.dim_param: name for dim, name in axes if dim.dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


class OnnxFormat:
    """Files for ONNX Runtime and other runtimes that read ONNX."""

    suffix = ".onnx"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``; for int8 a report is written beside the file."""
        if options.int8 is not None:
            deployable = with_provenance(deployable, options.int8)
            # Of the passes, only the resize changes pixels; the others are for float32.
            model = make_model(deployable, options, resize_as_torch)
            report = quantize(model, out, deployable, options.int8)
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
    """Write a network as an ONNX graph, on which the pass ``change`` is run.

    Raises:
        ValueError: An operator of training is left in it.
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
        RemoveUnusedNodesPass()(program.model)  # values that only replaced nodes used
    model = program.model_proto
    left = _LEFTOVERS & {node.op_type for node in model.graph.node}
    if left:
        raise ValueError(f"{', '.join(sorted(left))} of training are left in the graph")
    name_axes(model)
    model.producer_name = "mobilevision"
    onnx.helper.set_model_props(model, deployable.metadata.to_strings())
    onnx.checker.check_model(model, full_check=True)
    return model
