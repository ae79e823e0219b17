"""OpenVINO files: ONNX files that OpenVINO converts to an .xml with its weights in a .bin."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import openvino
from openvino import Node, Output, opset13

from ...datasets.files import write_atomically
from ..inference.openvino import METADATA_ENTRY
from ..inference.runtime import ModelMetadata
from .export_module import Deployable
from .formats import ExportOptions
from .onnx import make_model, pixels_of_group
from .quantization import quantize, report_notes, report_path, with_provenance

_COLUMNS, _ROWS = 150, 15
"""Approximate numbers of output columns and rows that share a window of the image: most weights of
a product for the whole image would be zero. Each window of columns makes opening a file slower."""
_MIDDLE = 128.0
"""Gray that is subtracted from pixels, so that weights in bfloat16 hardly change their mean."""


class OpenVinoFormat:
    """Files for OpenVINO in float32 or int8, which come from the QDQ pairs of the ONNX file."""

    suffix = ".xml"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``; for int8 a report is written beside the file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            if options.int8 is None:
                onnx.save(make_model(deployable, options), path)
                return convert(path, out, deployable.metadata)
            deployable = with_provenance(deployable, options.int8)
            model = make_model(deployable, options)
            report = quantize(model, path, deployable, options.int8)
            notes = convert(path, out, deployable.metadata)
            write_atomically(report_path(out), report_path(path).read_bytes())
        return {**notes, **report_notes(report)}


def convert(source: Path, out: Path, metadata: ModelMetadata) -> dict[str, Any]:
    """Convert one of our ONNX files, in float32 or int8, to an .xml; see ``Format.write``.

    An existing .xml always belongs to its .bin: an older .xml is deleted before the .bin is
    replaced.
    """
    model = openvino.Core().read_model(source)
    resize_as_torch(model)
    model.set_rt_info(json.dumps(metadata.to_strings()), list(METADATA_ENTRY))
    weights = out.with_suffix(".bin")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=out.parent) as folder:
        written = Path(folder) / out.name
        openvino.save_model(model, written, compress_to_fp16=False)
        out.unlink(missing_ok=True)
        os.replace(written.with_suffix(".bin"), weights)
        os.replace(written, out)
    return {
        "openvino": openvino.__version__,
        f"weights in {weights.name}": f"{weights.stat().st_size / 1e6:.1f} MB",
    }


def resize_as_torch(model: openvino.Model) -> None:
    """Resize (B, C, H, W) uint8 images as torch does, by matrix products.

    OpenVINO ignores ONNX's antialiasing. Its own "bilinear_pillow" gives almost the same pixels as
    this graph, but takes longer than the whole network behind it (OpenVINO 2026.4).
    """
    for node in model.get_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes().get("antialias"):
            continue
        height, width = (int(side) for side in node.get_output_partial_shape(0).get_max_shape()[2:])
        resized = _resized(node.input_value(0), (height, width))
        resized.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(resized.output(0))


def _resized(pixels: Output, size_hw: tuple[int, int]) -> Node:
    """Resize pixels (B, C, H, W) uint8 to (B, C, height, width) uint8, in two steps as torch."""
    height, width = size_hw
    shape = opset13.convert(opset13.shape_of(pixels), "i32")
    given_h, given_w = (opset13.gather(shape, _ints(axis), _ints(0)) for axis in (2, 3))
    middle = opset13.constant(np.float32(_MIDDLE))
    across = opset13.round(_across(pixels, given_w, width, middle), "half_to_even")
    both = _down(across, given_h, height)
    # An int8 network starts with a rounding. OpenVINO would fuse it into this product, which it
    # then leaves in float32 where the rest is in bfloat16: six times slower (2026.4).
    flat = opset13.reshape(both, _ints([0, 0, -1]), special_zero=True)
    rounded = opset13.round(opset13.add(flat, middle), "half_to_even")
    clamped = opset13.clamp(rounded, 0.0, 255.0)
    unfolded = opset13.reshape(clamped, _ints([0, 0, *size_hw]), special_zero=True)
    return opset13.convert(unfolded, "u8")


def _across(pixels: Output, given: Node, wanted: int, middle: Node) -> Node:
    """Resize (B, C, H, given) uint8 to (B, C, H, wanted) float32, minus ``middle``."""
    windows = triangle_windows(given, wanted, _COLUMNS)
    starts = opset13.split(windows.first, _ints(0), windows.groups).outputs()
    parts = []
    for group, start in enumerate(starts):
        first = opset13.reshape(start, _ints([1]), special_zero=False)
        last = opset13.add(first, windows.taps)
        columns = opset13.slice(pixels, first, last, _ints([1]), _ints([3]))
        centered = opset13.subtract(opset13.convert(columns, "f32"), middle)
        weights = opset13.gather(windows.weights, _ints(group), _ints(0))
        parts.append(opset13.matmul(centered, weights, False, True))
    return opset13.concat(parts, 3)


def _down(maps: Node, given: Node, wanted: int) -> Node:
    """Resize (B, C, given, w) float32 to (B, C, groups, wanted / groups, w)."""
    windows = triangle_windows(given, wanted, _ROWS)
    rows = opset13.gather(maps, windows.places, _ints(2))
    return opset13.matmul(windows.weights, rows, False, False)


class Windows(NamedTuple):
    """The input pixels of each group of output pixels, and their weights."""

    groups: int
    first: Node
    """(groups, 1) int32: the first pixel of each window."""
    taps: Node
    """int32: the number of pixels in each window."""
    places: Node
    """(groups, taps) int32: the pixels of each window."""
    weights: Node
    """(groups, pixels of a group, taps) float32; they sum to 1 over the taps."""


def triangle_windows(given: Node, wanted: int, near: int) -> Windows:
    """Compute the weights of ``given`` (int32) input pixels, for groups of about ``near`` pixels.

    See ``onnx._resize_windows`` for the formula. Positions are multiplied by 2 * wanted here, too;
    they stay integers until the end, because OpenVINO may calculate floats in bfloat16.
    """
    each = pixels_of_group(wanted, near)
    center = 2 * np.arange(wanted, dtype=np.int32) + 1  # to be multiplied by given
    reach = opset13.multiply(opset13.maximum(given, _ints(wanted)), _ints(2))
    span = opset13.add(opset13.multiply(given, _ints(each - 1)), reach)
    taps = opset13.divide(opset13.add(span, _ints(2 * wanted - 1)), _ints(wanted))
    taps = opset13.minimum(taps, given)
    first = opset13.multiply(opset13.constant(center[::each, None]), given)
    first = opset13.subtract(first, opset13.subtract(reach, _ints(wanted)))
    first = opset13.divide(opset13.maximum(first, _ints(0)), _ints(2 * wanted))
    first = opset13.minimum(first, opset13.subtract(given, taps))
    number = opset13.range(_ints(0), taps, _ints(1), output_type="i32")
    places = opset13.add(first, number)
    there = opset13.add(opset13.multiply(places, _ints(2 * wanted)), _ints(wanted))
    there = opset13.unsqueeze(there, _ints(1))
    centers = opset13.constant(center.reshape(-1, each, 1))
    apart = opset13.abs(opset13.subtract(there, opset13.multiply(centers, given)))
    inside = opset13.convert(opset13.maximum(opset13.subtract(reach, apart), _ints(0)), "f32")
    weights = opset13.divide(inside, opset13.reduce_sum(inside, _ints([2]), keep_dims=True))
    return Windows(wanted // each, first, taps, places, weights)


def _ints(value: int | list[int]) -> Node:
    return opset13.constant(np.array(value, np.int32))
