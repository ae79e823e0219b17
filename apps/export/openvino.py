"""OpenVINO files: an ONNX file read by OpenVINO, an .xml with its weights in a .bin beside it."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import openvino
from openvino import Node, Output, opset13

from ...datasets.files import replaced_atomically
from ..inference.openvino import METADATA_ENTRY
from ..inference.runtime import ModelMetadata
from .export_module import Deployable
from .formats import ExportOptions
from .onnx import make_model, pixels_of_group
from .quantization import quantize, report_notes, report_path, with_provenance

_COLUMNS, _ROWS = 150, 15
"""Columns and rows of the result, about, that share a window of the image: a product of the whole
image would be zeros for the most part. Each window of columns makes opening a file longer."""
_MIDDLE = 128.0
"""Grey that pixels are counted from, so that weights in bfloat16 hardly move their mean."""


class OpenVinoFormat:
    """Files for OpenVINO, in float32 or int8: it reads the QDQ pairs of the ONNX file."""

    suffix = ".xml"

    def write(self, deployable: Deployable, out: Path, options: ExportOptions) -> dict[str, Any]:
        """See ``Format``; for int8 a report is written beside the file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            if options.int8 is None:
                onnx.save(make_model(deployable, options), path)
                return convert(path, out, deployable.metadata)
            deployable = with_provenance(deployable, options.int8)
            small = path.with_name("int8.onnx")
            onnx.save(make_model(deployable, options), path)
            report = quantize(path, small, deployable.metadata.size_hw, options.int8)
            notes = convert(small, out, deployable.metadata)
            with replaced_atomically(report_path(out)) as temporary:
                temporary.write_bytes(report_path(small).read_bytes())
        return {**notes, **report_notes(report)}


def convert(source: Path, out: Path, metadata: ModelMetadata) -> dict[str, Any]:
    """Write an ONNX file of ours as one for OpenVINO.

    An .xml that is there always has its own .bin: an older one goes before the .bin is replaced.

    Args:
        source: The ONNX file, in float32 or int8.
        out: The .xml to write or replace.
        metadata: What the file is to say.

    Returns:
        As ``Format.write``.

    Raises:
        OSError: The files cannot be written.
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
    """Resize (B, C, H, W) uint8 images as torch does it, by products of matrices.

    OpenVINO ignores ONNX's antialiasing. Its own "bilinear_pillow" gives all but the same pixels as
    what stands here, but takes longer than the whole network behind it (OpenVINO 2026.4).
    """
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
    given_h, given_w = (opset13.gather(shape, _ints(axis), _ints(0)) for axis in (2, 3))
    middle = opset13.constant(np.float32(_MIDDLE))
    across = opset13.round(_across(pixels, given_w, width, middle), "half_to_even")
    both = _down(across, given_h, height)
    # A network in int8 has a rounding of its own next. OpenVINO would draw it into this product
    # and leave that in float32 where the rest is in bfloat16: six times as long (2026.4).
    flat = opset13.reshape(both, _ints([0, 0, -1]), special_zero=True)
    rounded = opset13.round(opset13.add(flat, middle), "half_to_even")
    clamped = opset13.clamp(rounded, 0.0, 255.0)
    unfolded = opset13.reshape(clamped, _ints([0, 0, *size_hw]), special_zero=True)
    return opset13.convert(unfolded, "u8")


def _across(pixels: Output, given: Node, wanted: int, middle: Node) -> Node:
    """(B, C, H, given) uint8 to (B, C, H, wanted) float32, ``middle`` taken off."""
    windows = triangle_windows(given, wanted, _COLUMNS)
    starts = opset13.split(windows.first, _ints(0), windows.groups).outputs()
    parts = []
    for group, start in enumerate(starts):
        first = opset13.reshape(start, _ints([1]), special_zero=False)
        last = opset13.add(first, windows.taps)
        columns = opset13.slice(pixels, first, last, _ints([1]), _ints([3]))
        centerd = opset13.subtract(opset13.convert(columns, "f32"), middle)
        shares = opset13.gather(windows.shares, _ints(group), _ints(0))
        parts.append(opset13.matmul(centerd, shares, False, True))
    return opset13.concat(parts, 3)


def _down(maps: Node, given: Node, wanted: int) -> Node:
    """(B, C, given, w) float32 to (B, C, groups, wanted / groups, w)."""
    windows = triangle_windows(given, wanted, _ROWS)
    rows = opset13.gather(maps, windows.places, _ints(2))
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
    reach = opset13.multiply(opset13.maximum(given, _ints(wanted)), _ints(2))
    span = opset13.add(opset13.multiply(given, _ints(each - 1)), reach)
    taps = opset13.divide(opset13.add(span, _ints(2 * wanted - 1)), _ints(wanted))
    taps = opset13.minimum(taps, given)
    first = opset13.multiply(opset13.constant(centre[::each, None]), given)
    first = opset13.subtract(first, opset13.subtract(reach, _ints(wanted)))
    first = opset13.divide(opset13.maximum(first, _ints(0)), _ints(2 * wanted))
    first = opset13.minimum(first, opset13.subtract(given, taps))
    number = opset13.range(_ints(0), taps, _ints(1), output_type="i32")
    places = opset13.add(first, number)
    there = opset13.add(opset13.multiply(places, _ints(2 * wanted)), _ints(wanted))
    there = opset13.unsqueeze(there, _ints(1))
    centers = opset13.constant(centre.reshape(-1, each, 1))
    apart = opset13.abs(opset13.subtract(there, opset13.multiply(centers, given)))
    inside = opset13.convert(opset13.maximum(opset13.subtract(reach, apart), _ints(0)), "f32")
    shares = opset13.divide(inside, opset13.reduce_sum(inside, _ints([2]), keep_dims=True))
    return Windows(wanted // each, first, taps, places, shares)


def _ints(value: int | list[int]) -> Node:
    return opset13.constant(np.array(value, np.int32))
