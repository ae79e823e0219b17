"""Torchvision's RoIAlign in operators that every format has."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def roi_align(
    features: Tensor,
    rows: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """``torchvision.ops.roi_align`` by ``grid_sample``.

    The same for boxes within the picture, in the order of the pictures and as many of each, as
    ``RoIHead`` gives them.

    Args:
        features: (B, C, H, W).
        rows: (B x P, 5): position of the picture (not looked at), then xyxy in pixels of it.
        spatial_scale: From those to cells of the features.
        pooled_height: Rows of the output.
        pooled_width: Columns.
        sampling_ratio: Samples in each direction that a cell of the output is the mean of.
        aligned: Whether the centre of a cell is at a half; must be true.

    Returns:
        (B x P, C, pooled_height, pooled_width).
    """
    assert aligned
    assert sampling_ratio > 0
    batch, channels, height, width = features.shape
    x1, y1, x2, y2 = (rows[:, 1:] * spatial_scale).split(1, dim=1)  # (B x P, 1) each
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
        features, places.view(batch, -1, across, 2), padding_mode="border", align_corners=False
    )
    by_box = samples.view(batch, channels, -1, down, across).transpose(1, 2)
    return F.avg_pool2d(by_box.reshape(-1, channels, down, across), sampling_ratio)
