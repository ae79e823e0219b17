"""Pictures resized inside files for ONNX Runtime: across and then down, as torch does it.

Other runtimes that read ONNX get the same pixels; OpenVINO's files are made of ``Resize`` as the
exporter writes it, see ``openvino_resize``.
"""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .onnx_recorder import Recorder

_ROWS = 15
"""Rows of the result that share a window of the picture. Fewer make products of matrices slow,
more make them multiply zeros."""
_ONE_LEVEL = np.float32(1 - 4e-6)
"""A step of uint8: halves, which torch rounds up, are just above the middle, where ONNX would round
to even."""


def resize_as_torch(model: ir.Model) -> None:
    """Replace antialiased resizes of (B, C, H, W) uint8 to a fixed size, in place."""
    for node in list(model.graph):
        antialias = node.attributes.get("antialias")
        if node.op_type != "Resize" or antialias is None or not antialias.as_int():
            continue
        pixels, resized = node.inputs[0], node.outputs[0]
        assert resized.shape is not None
        channels, height, width = (int(side) for side in resized.shape[1:])  # type: ignore[arg-type]
        ops = Recorder()
        across = _across(ops, pixels, node.attributes, (channels, width))
        down = _down(ops, across, (channels, height, width))
        ir.convenience.replace_all_uses_with(resized, down)
        model.graph.insert_before(node, ops.tape.nodes)
        model.graph.remove(node, safe=True)


def _across(ops: Any, pixels: Any, attributes: Any, shape: tuple[int, int]) -> Any:
    """(B, C, H, W) to (B, C, H, width).

    Exporters leave ``exclude_outside`` at its default, with which an edge weighs as if its last
    pixel went on; torch looks at what is there. Threads of ONNX Runtime share the channels of what
    is resized, and three are hard to share: across, each row may as well be a channel.
    """
    channels, width = shape
    rows = ops.Reshape(pixels, _whole(ops, 0, -1, 1, 0))
    options = {**attributes, "exclude_outside": 1, "axes": [3]}
    resized = ops.Resize(rows, None, None, _whole(ops, width), **options)
    return ops.Reshape(resized, _whole(ops, 0, channels, -1, width))


def _down(ops: Any, maps: Any, shape: tuple[int, int, int]) -> Any:
    """(B, C, H, width) uint8 to (B, C, height, width) uint8.

    A product of matrices, which is calculated for many pixels at once where ``Resize`` takes them
    one by one. A few rows at a time, since others would be multiplied by zeros.
    """
    channels, height, width = shape
    taps, shares = _windows(ops, ops.Shape(maps, start=2, end=3), height)
    windows = ops.Cast(ops.Gather(maps, taps, axis=2), to=onnx.TensorProto.FLOAT)
    level = _constant(ops, _ONE_LEVEL)
    rounded = ops.QuantizeLinear(ops.MatMul(shares, windows), level, _constant(ops, np.uint8(0)))
    return ops.Reshape(rounded, _whole(ops, 0, channels, height, width))


def _windows(ops: Any, given: Any, wanted: int) -> tuple[Any, Any]:
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
    reach = ops.Max(given, _whole(ops, wanted))  # times 2
    span = ops.Add(ops.Mul(given, _whole(ops, each - 1)), ops.Mul(reach, _whole(ops, 2)))
    taps = ops.Div(ops.Add(span, _whole(ops, 2 * wanted - 1)), _whole(ops, wanted))
    taps = ops.Min(taps, given)
    before = ops.Sub(ops.Mul(reach, _whole(ops, 2)), _whole(ops, wanted))
    first = ops.Sub(ops.Mul(given, _constant(ops, centre[::each, None])), before)
    first = ops.Div(ops.Max(first, _whole(ops, 0)), _whole(ops, 2 * wanted))
    first = ops.Min(first, ops.Sub(given, taps))
    one = ops.Constant(value_int=1)
    number = ops.Range(ops.Constant(value_int=0), ops.Squeeze(taps), one)
    rows = ops.Add(first, number)
    there = _float(ops, ops.Add(ops.Mul(rows, _whole(ops, 2 * wanted)), _whole(ops, wanted)))
    there = ops.Unsqueeze(there, _whole(ops, 1))
    centres = centre.reshape(-1, each, 1).astype(np.float32)
    apart = ops.Abs(ops.Sub(there, ops.Mul(_float(ops, given), _constant(ops, centres))))
    inside = ops.Relu(ops.Sub(_float(ops, ops.Mul(reach, _whole(ops, 2))), apart))
    return rows, ops.Div(inside, ops.ReduceSum(inside, _whole(ops, 2)))


def pixels_of_group(wanted: int, near: int) -> int:
    """What divides the rows or columns of a result and comes nearest to a number, as a ratio."""
    divisors = (each for each in range(1, wanted + 1) if wanted % each == 0)
    return min(divisors, key=lambda each: max(each / near, near / each))


def _float(ops: Any, value: Any) -> Any:
    return ops.Cast(value, to=onnx.TensorProto.FLOAT)


def _whole(ops: Any, *numbers: int) -> Any:
    return ops.Constant(value_ints=list(numbers))


def _constant(ops: Any, value: Any) -> Any:
    return ops.Constant(value=ir.tensor(np.asarray(value)))
