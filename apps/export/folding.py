"""Networks without what only training needs, whatever they are made of."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ...backbone.fuse import fuse
from ...backbone.layers import ConvNormAct


def for_export(network: nn.Module) -> nn.Module:
    """Return a fixed copy of a network in which nothing of training is left.

    What ``fuse`` does not fold, such as normalisation after a shared convolution, becomes a factor
    and an offset for each channel.
    """
    foldable = any(isinstance(module, ConvNormAct) for module in network.modules())
    own = fuse(network) if foldable else copy.deepcopy(network).eval()
    for module in list(own.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, ChannelAffine(child))
            elif isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())
    return own.requires_grad_(False)


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
