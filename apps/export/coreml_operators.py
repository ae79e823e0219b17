"""Torch's operators as coremltools 9 takes them.

That is torch's core set, but for those that it does not have or gets wrong.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.export import default_decompositions

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


def roi_align(
    features: Tensor,
    rows: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Torchvision's operator of one picture, by ``grid_sample``.

    The same for boxes within the picture.

    Args:
        features: (1, C, H, W).
        rows: (P, 5): 0, then xyxy in pixels of the picture.
        spatial_scale: From those to cells of the features.
        pooled_height: Rows of the output.
        pooled_width: Columns.
        sampling_ratio: Samples in each direction that a cell of the output is the mean of.
        aligned: Whether the centre of a cell is at a half; must be true.

    Returns:
        (P, C, pooled_height, pooled_width).
    """
    assert aligned
    assert sampling_ratio > 0
    channels, height, width = features.shape[1:]
    x1, y1, x2, y2 = (rows[:, 1:] * spatial_scale).split(1, dim=1)  # (P, 1) each
    down, across = pooled_height * sampling_ratio, pooled_width * sampling_ratio
    x = x1 + (x2 - x1) * ((torch.arange(across, dtype=rows.dtype) + 0.5) / across)
    y = y1 + (y2 - y1) * ((torch.arange(down, dtype=rows.dtype) + 0.5) / down)
    shape = (len(rows), down, across)
    places = torch.stack(
        [
            (x * (2 / width) - 1)[:, None, :].expand(shape),
            (y * (2 / height) - 1)[:, :, None].expand(shape),
        ],
        dim=-1,
    )
    samples = F.grid_sample(
        features, places.view(1, -1, across, 2), padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(samples.view(channels, *shape).transpose(0, 1), sampling_ratio)
