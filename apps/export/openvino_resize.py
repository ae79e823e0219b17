"""Pictures resized inside OpenVINO files as torch does it, as two products of matrices.

OpenVINO passes ONNX's antialiasing over. Its own "bilinear_pillow" gives all but the same pixels as
what stands here, but takes longer than the whole network behind it (OpenVINO 2026.4).
"""

import numpy as np
import openvino
from openvino import Node, Output, opset13

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
    shape = opset13.convert(opset13.shape_of(pixels), "i32")
    given_h, given_w = (opset13.gather(shape, _whole(axis), _whole(0)) for axis in (2, 3))
    middle = opset13.constant(np.float32(_MIDDLE))
    centred = opset13.subtract(opset13.convert(pixels, "f32"), middle)
    rows = opset13.matmul(centred, triangle_weights(given_w, size_hw[1]), False, True)
    rows = opset13.round(rows, "half_to_even")
    both = opset13.matmul(triangle_weights(given_h, size_hw[0]), rows, False, False)
    # A network in 8 bits has a rounding of its own next. OpenVINO would draw it into this product
    # and leave that in float32 where the rest is in bfloat16: six times as long (2026.4).
    flat = opset13.reshape(both, _whole([0, 0, -1]), special_zero=True)
    rounded = opset13.round(opset13.add(flat, middle), "half_to_even")
    clamped = opset13.clamp(rounded, 0.0, 255.0)
    unfolded = opset13.reshape(clamped, _whole([0, 0, *size_hw]), special_zero=True)
    return opset13.convert(unfolded, "u8")


def triangle_weights(given: Node, wanted: int) -> Node:
    """Share that each of ``given`` pixels (int32, of a graph) has in each wanted one.

    With s = given / wanted, pixel i weighs max(0, 1 - |i + 0.5 - s (j + 0.5)| / max(s, 1)) in pixel
    j. All is calculated times 2 * wanted * max(s, 1) in whole numbers, which stay exact where
    OpenVINO calculates in bfloat16.

    Returns:
        (wanted, given) float32; rows sum to 1.
    """
    number = opset13.range(_whole(0), given, _whole(1), output_type="i32")
    there = opset13.add(opset13.multiply(number, _whole(2 * wanted)), _whole(wanted))
    odd = opset13.constant((2 * np.arange(wanted, dtype=np.int32) + 1)[:, None])
    apart = opset13.abs(opset13.subtract(there, opset13.multiply(odd, given)))
    reach = opset13.multiply(opset13.maximum(given, _whole(wanted)), _whole(2))
    inside = opset13.convert(opset13.maximum(opset13.subtract(reach, apart), _whole(0)), "f32")
    return opset13.divide(inside, opset13.reduce_sum(inside, _whole([1]), keep_dims=True))


def _whole(value: int | list[int]) -> Node:
    return opset13.constant(np.array(value, np.int32))
