"""Pictures resized inside OpenVINO files as torch does it, as products of matrices.

OpenVINO passes ONNX's antialiasing over. Its own "bilinear_pillow" gives all but the same pixels as
what stands here, but takes longer than the whole network behind it (OpenVINO 2026.4).
"""

from typing import NamedTuple

import numpy as np
import openvino
from openvino import Node, Output, opset13

from .onnx_resize import pixels_of_group

_COLUMNS, _ROWS = 150, 15
"""Columns and rows of the result, about, that share a window of the picture: a product of the whole
picture would be zeros for the most part. Each window of columns makes opening a file longer."""
_MIDDLE = 128.0
"""Grey that pixels are counted from, so that weights in bfloat16 hardly move their mean."""


def resize_as_torch(model: openvino.Model) -> None:
    """Put such products in the place of antialiased resizes of (B, C, H, W) uint8."""
    for node in model.get_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes().get("antialias"):
            continue
        height, width = (int(side) for side in node.get_output_partial_shape(0).get_max_shape()[2:])
        resized = _resized(node.input_value(0), (height, width))
        resized.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(resized.output(0))


def _resized(pixels: Output, size_hw: tuple[int, int]) -> Node:
    """Pixels (B, C, H, W) uint8 to (B, C, height, width) uint8, rounded in between, as there."""
    height, width = size_hw
    shape = opset13.convert(opset13.shape_of(pixels), "i32")
    given_h, given_w = (opset13.gather(shape, _whole(axis), _whole(0)) for axis in (2, 3))
    middle = opset13.constant(np.float32(_MIDDLE))
    across = opset13.round(_across(pixels, given_w, width, middle), "half_to_even")
    both = _down(across, given_h, height)
    # A network in 8 bits has a rounding of its own next. OpenVINO would draw it into this product
    # and leave that in float32 where the rest is in bfloat16: six times as long (2026.4).
    flat = opset13.reshape(both, _whole([0, 0, -1]), special_zero=True)
    rounded = opset13.round(opset13.add(flat, middle), "half_to_even")
    clamped = opset13.clamp(rounded, 0.0, 255.0)
    unfolded = opset13.reshape(clamped, _whole([0, 0, *size_hw]), special_zero=True)
    return opset13.convert(unfolded, "u8")


def _across(pixels: Output, given: Node, wanted: int, middle: Node) -> Node:
    """(B, C, H, given) uint8 to (B, C, H, wanted) float32, ``middle`` taken off."""
    windows = triangle_windows(given, wanted, _COLUMNS)
    starts = opset13.split(windows.first, _whole(0), windows.groups).outputs()
    parts = []
    for group, start in enumerate(starts):
        first = opset13.reshape(start, _whole([1]), special_zero=False)
        last = opset13.add(first, windows.taps)
        columns = opset13.slice(pixels, first, last, _whole([1]), _whole([3]))
        centred = opset13.subtract(opset13.convert(columns, "f32"), middle)
        shares = opset13.gather(windows.shares, _whole(group), _whole(0))
        parts.append(opset13.matmul(centred, shares, False, True))
    return opset13.concat(parts, 3)


def _down(maps: Node, given: Node, wanted: int) -> Node:
    """(B, C, given, w) float32 to (B, C, groups, wanted / groups, w)."""
    windows = triangle_windows(given, wanted, _ROWS)
    rows = opset13.gather(maps, windows.places, _whole(2))
    return opset13.matmul(windows.shares, rows, False, False)


class Windows(NamedTuple):
    """Where pixels of a result are taken from, a few of them at a time: a group."""

    groups: int
    first: Node
    """(groups, 1) int32: the first pixel of each window."""
    taps: Node
    """int32: how many there are in each."""
    places: Node
    """(groups, taps) int32: all of them."""
    shares: Node
    """(groups, pixels of a group, taps) float32; they sum to 1."""


def triangle_windows(given: Node, wanted: int, near: int) -> Windows:
    """Which of ``given`` pixels (int32, of a graph) are looked at for which wanted ones.

    With s = given / wanted, pixel i weighs max(0, 1 - |i + 0.5 - s (j + 0.5)| / max(s, 1)) in pixel
    j. All is calculated times 2 * wanted * max(s, 1) in whole numbers, which stay exact where
    OpenVINO calculates in bfloat16. A group has about ``near`` of the wanted pixels.
    """
    each = pixels_of_group(wanted, near)
    centre = 2 * np.arange(wanted, dtype=np.int32) + 1  # times given
    reach = opset13.multiply(opset13.maximum(given, _whole(wanted)), _whole(2))
    span = opset13.add(opset13.multiply(given, _whole(each - 1)), reach)
    taps = opset13.divide(opset13.add(span, _whole(2 * wanted - 1)), _whole(wanted))
    taps = opset13.minimum(taps, given)
    first = opset13.multiply(opset13.constant(centre[::each, None]), given)
    first = opset13.subtract(first, opset13.subtract(reach, _whole(wanted)))
    first = opset13.divide(opset13.maximum(first, _whole(0)), _whole(2 * wanted))
    first = opset13.minimum(first, opset13.subtract(given, taps))
    number = opset13.range(_whole(0), taps, _whole(1), output_type="i32")
    places = opset13.add(first, number)
    there = opset13.add(opset13.multiply(places, _whole(2 * wanted)), _whole(wanted))
    there = opset13.unsqueeze(there, _whole(1))
    centres = opset13.constant(centre.reshape(-1, each, 1))
    apart = opset13.abs(opset13.subtract(there, opset13.multiply(centres, given)))
    inside = opset13.convert(opset13.maximum(opset13.subtract(reach, apart), _whole(0)), "f32")
    shares = opset13.divide(inside, opset13.reduce_sum(inside, _whole([2]), keep_dims=True))
    return Windows(wanted // each, first, taps, places, shares)


def _whole(value: int | list[int]) -> Node:
    return opset13.constant(np.array(value, np.int32))
