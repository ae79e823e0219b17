"""Networks without what only training needs, whatever they are made of."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ...backbone.fuse import FusedConvAct, fuse
from ...backbone.layers import ConvNormAct
from ...backbone.mobilenet import MobileNetV1
from ...heads.detection.prediction_heads import MapPredictor, Predictors, as_rows


def for_export(network: nn.Module) -> nn.Module:
    """Return a fixed copy of a network in which nothing of training is left.

    What ``fuse`` does not fold, such as normalisation after a shared convolution, becomes a factor
    and an offset for each channel. Each map has one convolution for boxes and classes together, and
    pixels are divided in the weights of the first.
    """
    foldable = any(isinstance(module, ConvNormAct) for module in network.modules())
    own = fuse(network) if foldable else copy.deepcopy(network).eval()
    _divide_in_stem(own)
    for module in list(own.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, ChannelAffine(child))
            elif isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size == 1:
                setattr(module, name, Mean())
            elif type(child) is Predictors:  # its other kinds have layers of their own before
                setattr(module, name, MergedPredictors(child))
    return own.requires_grad_(False)


def _divide_in_stem(network: nn.Module) -> None:
    """Put the division of pixels into the first convolution, which is linear, in place."""
    body = next((each for each in network.modules() if isinstance(each, MobileNetV1)), None)
    divisor = getattr(network, "pixel_std", None)
    if body is None or divisor is None or not isinstance(body.stem, FusedConvAct):
        return
    body.stem.weight.data = body.stem.weight / divisor
    setattr(network, "pixel_std", 1.0)  # noqa: B010 (a number; Module's own type says otherwise)


class Mean(nn.Module):
    """``AdaptiveAvgPool2d(1)``, which exports with steps in memory to no purpose."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, 1, 1) for features (B, C, H, W)."""
        return features.mean(dim=(2, 3), keepdim=True)


class MergedPredictors(nn.Module):
    """SSD's ``Predictors`` with one convolution for each map, whose boxes come with their classes.

    Four channels a box are too few for a convolution of their own to be worth its time.

    Args:
        original: Where the values come from.
    """

    def __init__(self, original: Predictors) -> None:
        super().__init__()
        self.num_columns = original.num_columns
        self.maps = nn.ModuleList(
            _merged(cast(MapPredictor, predictor), original.num_columns) for predictor in original
        )

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """As ``Predictors``, all maps in one."""
        columns = [4, self.num_columns]
        said = [conv(map_) for conv, map_ in zip(self.maps, maps, strict=True)]
        rows = torch.cat([as_rows(each, sum(columns)) for each in said], dim=1)
        deltas, logits = rows.split(columns, dim=2)
        return [(deltas, logits)]


def _merged(predictor: MapPredictor, num_columns: int) -> nn.Conv2d:
    """One 1x1 convolution: the offsets of a box, then its logits, box by box."""
    boxes, classes = predictor.boxes, predictor.classes
    merged = nn.Conv2d(boxes.in_channels, boxes.out_channels + classes.out_channels, 1)
    for name, value in merged.named_parameters():
        by_box = [
            getattr(layer, name).detach().unflatten(0, (-1, columns))
            for layer, columns in ((boxes, 4), (classes, num_columns))
        ]
        value.data = torch.cat(by_box, dim=1).flatten(0, 1)
    return merged


class ChannelAffine(nn.Module):
    """Batch normalisation with fixed statistics: a factor and an offset for each channel.

    Args:
        norm: Where the values come from; (B, C) or (B, C, H, W) in and out.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        factor = torch.rsqrt(var + norm.eps)
        if norm.affine:
            factor = factor * norm.weight.detach()
        offset = -mean * factor
        if norm.affine:
            offset = offset + norm.bias.detach()
        shape = (-1,) if isinstance(norm, nn.BatchNorm1d) else (-1, 1, 1)
        self.factor = nn.Buffer(factor.view(shape))
        self.offset = nn.Buffer(offset.view(shape))

    def forward(self, values: Tensor) -> Tensor:
        """Return values * factor + offset."""
        return values * self.factor + self.offset
