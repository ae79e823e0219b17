"""Suppression in ONNX files: graphs of ONNX's own operator for what ``best_survivors`` says."""

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
from onnxscript import opset18

from ...heads.detection.postprocess import FIRST_LOOK
from .onnx_recorder import Recorder

op: Any = opset18  # its annotations know no values of a graph that is being built
_BOOL, _INT32, _INT64 = (
    onnx.TensorProto.BOOL, onnx.TensorProto.INT32, onnx.TensorProto.INT64
)  # fmt: skip


def translate_suppression(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    score_threshold: float,
    candidates: int,
    wanted: int,
) -> Any:
    """``best_survivors`` as ONNX says it.

    As in ``PostProcess`` the best candidates of all groups together are looked at first; all of
    them only where those leave fewer than are wanted. A single group is small: all of it is.
    """
    suppression = Suppression(boxes, scores, iou_threshold, score_threshold, candidates, wanted)
    count, groups = scores.shape[1:]
    first = min(candidates, FIRST_LOOK * wanted)
    if groups == 1 or first < wanted:
        places = suppression.of_all(op)
    elif groups * count <= first:
        places, _ = suppression.of_the_best(op, groups * count)
    else:
        places, undecided = suppression.of_the_best(op, first)
        places = op.If(
            undecided,
            then_branch=branch("all_candidates", suppression.of_all),
            else_branch=branch("first_candidates", lambda inner: inner.Identity(places)),
        )
    nothing = op.Constant(value_float=0.0)
    there = op.GreaterOrEqual(places, op.Constant(value_int=0))
    index = op.Max(places, op.Constant(value_int=0))
    best = op.GatherElements(suppression.flat, index, axis=1)
    of_group = op.Constant(value_int=groups)
    return op.Where(there, best, nothing), op.Div(index, of_group), op.Mod(index, of_group)


class Suppression:
    """Graphs that say which candidates survive.

    Args:
        boxes: As for ``best_survivors``, and so are the others.
        scores: Likewise; the numbers of groups and of boxes are known.
        iou_threshold: Likewise.
        score_threshold: Likewise.
        candidates: Likewise.
        wanted: Likewise.
    """

    def __init__(
        self,
        boxes: Any,
        scores: Any,
        iou_threshold: float,
        score_threshold: float,
        candidates: int,
        wanted: int,
    ) -> None:
        self.boxes, self.scores, self.flat = boxes, scores, op.Flatten(scores)
        self.iou_threshold, self.score_threshold = iou_threshold, score_threshold
        self.candidates, self.wanted = candidates, wanted

    def of_the_best(self, ops: Any, first: int) -> tuple[Any, Any]:
        """Look at the best ``first`` of an image alone, which are few enough to be moved together.

        Returns:
            (B, wanted) places among all scores, -1 where there is nothing more; and whether other
            candidates could still be among those of any image.
        """
        groups = self.scores.shape[2]
        last_axis, second_axis = ops.Constant(value_ints=[-1]), ops.Constant(value_ints=[1])
        rows, scores = self._best_rows(ops, first)
        flat = ops.Reshape(scores, ops.Constant(value_ints=[0, -1]))
        best, which = ops.TopK(  # (B, first), in any order
            flat, ops.Constant(value_ints=[first]), axis=1, sorted=0
        )
        of_best = ops.Div(which, ops.Constant(value_int=groups))
        if rows is not None:
            of_best = ops.GatherElements(rows, of_best, axis=1)
        group = ops.Mod(which, ops.Constant(value_int=groups))
        boxes = ops.GatherND(self.boxes, ops.Unsqueeze(of_best, last_axis), batch_dims=1)
        shape = ops.Concat(ops.Shape(best, end=1), ops.Constant(value_ints=[groups, first]), axis=0)
        by_group = ops.ScatterElements(  # (B, G, first): each has a score in its own group alone
            ops.Expand(ops.Constant(value_float=0.0), shape),
            ops.Unsqueeze(group, second_axis),
            ops.Unsqueeze(best, second_axis),
            axis=1,
        )
        chosen = self._suppress(ops, boxes, by_group)
        chosen = ops.Gather(chosen, ops.Constant(value_ints=[0, 2]), axis=1)  # each is of one group
        kept, place = self._best(ops, best, chosen)
        index = ops.Add(ops.Mul(of_best, ops.Constant(value_int=groups)), group)
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
        best = ops.ReduceMax(self.scores, ops.Constant(value_ints=[2]), keepdims=0)
        _, rows = ops.TopK(best, ops.Constant(value_ints=[first]), axis=1, sorted=0)
        places = ops.Unsqueeze(rows, ops.Constant(value_ints=[-1]))
        return rows, ops.GatherND(self.scores, places, batch_dims=1)

    def of_all(self, ops: Any) -> Any:
        """Look at every candidate; places as of ``of_the_best``."""
        scores, flat = self.scores, self.flat
        if scores.shape[1] > self.candidates:
            scores = best_of_group(ops, scores, self.score_threshold, self.candidates)
            # Not Flatten: torch's optimiser loses constants of what it makes of it in a branch.
            flat = ops.Reshape(scores, ops.Shape(flat))
        chosen = self._suppress(ops, self.boxes, ops.Transpose(scores, perm=[0, 2, 1]))
        groups = ops.Constant(value_int=self.scores.shape[2])
        image, group, row = (
            ops.Gather(chosen, ops.Constant(value_ints=[column]), axis=1) for column in range(3)
        )
        chosen = ops.Concat(image, ops.Add(ops.Mul(row, groups), group), axis=1)
        return self._marked(ops, *self._best(ops, flat, chosen))

    def _suppress(self, ops: Any, boxes: Any, scores: Any) -> Any:
        """(N, 3): image, group and box of what greedy suppression leaves of scores (B, G, A)."""
        return ops.NonMaxSuppression(
            boxes,
            scores,
            ops.Constant(value_ints=[self.wanted]),
            ops.Constant(value_floats=[self.iou_threshold]),
            ops.Constant(value_floats=[self.score_threshold]),
        )

    def _best(self, ops: Any, scores: Any, chosen: Any) -> tuple[Any, Any]:
        """The best of scores (B, M) at the places (N, 2) that were chosen, 0 behind them."""
        nothing = ops.Expand(ops.Constant(value_float=0.0), ops.Shape(scores))
        kept = ops.ScatterND(nothing, chosen, ops.GatherND(scores, chosen))
        return ops.TopK(kept, ops.Constant(value_ints=[self.wanted]), axis=1)

    def _marked(self, ops: Any, kept: Any, places: Any) -> Any:
        there = ops.Greater(kept, ops.Constant(value_float=0.0))
        return ops.Where(there, places, ops.Constant(value_int=-1))


def best_of_group(ops: Any, scores: Any, score_threshold: float, candidates: int) -> Any:
    """Scores (B, A, G) with 0 for all but the best ``candidates`` of each group.

    As many are sorted as the fullest group has above the threshold, which is mostly a few.
    """
    above = ops.Cast(ops.Greater(scores, ops.Constant(value_float=score_threshold)), to=_INT32)
    most = ops.ReduceMax(ops.ReduceSum(above, ops.Constant(value_ints=[1])), keepdims=0)
    most = ops.Min(ops.Cast(most, to=_INT64), ops.Constant(value_int=candidates))
    wanted = ops.Reshape(ops.Max(most, ops.Constant(value_int=1)), ops.Constant(value_ints=[1]))
    best, _ = ops.TopK(scores, wanted, axis=1)
    last = ops.ReduceMin(best, ops.Constant(value_ints=[1]))
    return ops.Where(ops.GreaterOrEqual(scores, last), scores, ops.Constant(value_float=0.0))


def branch(name: str, build: Callable[[Any], Any]) -> ir.Graph:
    """Return what an ``If`` does on one side; ``build`` makes its value with a ``Recorder``."""
    recorder = Recorder()
    value = build(recorder)
    return ir.Graph([], [value], nodes=recorder.tape.nodes, name=name)
