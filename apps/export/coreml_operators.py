"""Torch's operators as coremltools 9 takes them.

That is torch's core set, but for those that it does not have or gets wrong.
"""

from typing import Any

import torch
from torch import Tensor
from torch.export import default_decompositions

from .roi_sampling import roi_align
from .suppression import DECOMPOSITIONS

_ATEN = torch.ops.aten
_KEPT = (_ATEN.zeros_like.default, _ATEN.grid_sampler.default)
"""Taken as they are: zeros keep their type that way, and the core sampler has another name."""


def coreml_operators() -> dict[Any, Any]:
    """Return what ``ExportedProgram.run_decompositions`` takes."""
    table = default_decompositions()
    for operator in _KEPT:
        table.pop(operator)
    return {
        **table,
        **DECOMPOSITIONS,
        _ATEN.alias.default: lambda values: values,
        _ATEN.arange.start_step: whole_numbers,
        _ATEN.floor_divide.default: whole_quotient,
        _ATEN.gather.default: gather,
        torch.ops.torchvision.roi_align.default: roi_align,
    }


def whole_numbers(
    start: float, end: float, step: float = 1, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    """``torch.arange``, whose values become integers in coremltools whatever the type asked for."""
    if dtype is None or not dtype.is_floating_point:
        return NotImplemented  # as it is
    return torch.arange(start, end, step, dtype=torch.int64).to(dtype)


def gather(values: Tensor, dim: int, index: Tensor, sparse_grad: bool = False) -> Tensor:  # noqa: ARG001
    """``torch.gather``, which Core ML has for numbers alone."""
    if values.dtype != torch.bool:
        return NotImplemented  # as it is
    return values.to(torch.int32).gather(dim, index).to(torch.bool)


def whole_quotient(left: Tensor, right: Tensor | int) -> Tensor:
    """``//`` of whole numbers from 0 to 2 ** 24, of which coremltools makes floats."""
    if left.dtype.is_floating_point:
        return NotImplemented  # as it is
    return (left.to(torch.float32) / right).to(left.dtype)
