"""Pictures resized inside files for ONNX Runtime: across and then down, as torch does it.

Other runtimes that read ONNX get the same pixels; OpenVINO's files are made of ``Resize`` as the
exporter writes it, see ``openvino_resize``.
"""

from typing import Any

import onnx_ir as ir
from onnx_ir.tape import Tape


def resize_as_torch(model: ir.Model) -> None:
    """Replace antialiased resizes of (B, C, H, W) to a fixed size, in place.

    Exporters leave ``exclude_outside`` at its default, with which an edge weighs as if its last
    pixel went on; torch looks at what is there. Threads of ONNX Runtime share the channels of what
    is resized, and three are hard to share: across, each row may as well be a channel.
    """
    for node in list(model.graph):
        antialias = node.attributes.get("antialias")
        if node.op_type != "Resize" or antialias is None or not antialias.as_int():
            continue
        pixels, resized = node.inputs[0], node.outputs[0]
        assert resized.shape is not None
        channels, height, width = (int(side) for side in resized.shape[1:])  # type: ignore[arg-type]
        attributes = {**node.attributes, "exclude_outside": 1}
        tape = Tape()
        rows = tape.op("Reshape", [pixels, _whole(tape, 0, -1, 1, 0)])
        across = _resized(tape, rows, attributes, axis=3, side=width)
        maps = tape.op("Reshape", [across, _whole(tape, 0, channels, -1, width)])
        down = _resized(tape, maps, attributes, axis=2, side=height)
        ir.convenience.replace_all_uses_with(resized, down)
        model.graph.insert_before(node, tape.nodes)
        model.graph.remove(node, safe=True)


def _resized(
    tape: Tape, maps: ir.Value, attributes: dict[str, Any], axis: int, side: int
) -> ir.Value:
    inputs = [maps, None, None, _whole(tape, side)]
    return tape.op("Resize", inputs, {**attributes, "axes": [axis]})


def _whole(tape: Tape, *numbers: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": list(numbers)})
