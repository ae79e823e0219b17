"""Graphs in float32 as ONNX Runtime runs them fastest; their answers stay the same."""

from typing import Any

import numpy as np
import onnx_ir as ir

from .onnx_recorder import Recorder
from .onnx_resize import resize_as_torch

_FILTERS = 64
"""Filters of a pointwise convolution that one thread of ONNX Runtime takes on at least."""


def tune(model: ir.Model) -> None:
    """Change a graph in place."""
    resize_as_torch(model)
    pool_in_blocks(model)
    part_pointwise(model)


def pool_in_blocks(model: ir.Model) -> None:
    """Write averages of whole maps as ``GlobalAveragePool``.

    ONNX Runtime has that for maps in the layout of its convolutions, where it would bring them
    into the usual one before a ``ReduceMean``.
    """
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or _axes(node) != [2, 3]:
            continue
        ops = Recorder()
        pooled = ops.GlobalAveragePool(node.inputs[0])
        _replace(model, [node], pooled if _keeps_axes(node) else ops.Flatten(pooled), ops)


def part_pointwise(model: ir.Model) -> None:
    """Divide pointwise convolutions of 65 to 128 filters before a depthwise one with a stride.

    Two threads take one half of the filters each, and either reads the whole map, of which the
    other has just written one half. In parts they share rows. What follows works channel by
    channel, and behind its stride the parts are small enough to be put together again.
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
            rest = [ops.Constant(value=ir.tensor(_values(each)[channels])) for each in rest]
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
