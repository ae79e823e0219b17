"""Networks for inference: batch normalization folded into the convolution before it.

A convolution without bias followed by normalization with fixed statistics is one convolution with
a bias (Jacob et al. 2018, "Quantization and Training of Neural Networks", Section 3.2, equation
14). On CPUs with oneDNN the activation goes into the same kernel. Both save passes over the feature
maps, which cost as much as the depthwise convolutions themselves.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .layers import ConvNormAct, PaddedConv2d

_ONEDNN_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.ReLU: ("relu", []),
}
"""Activation -> its name in oneDNN's convolution, and its parameters."""


class FusedConvAct(PaddedConv2d):
    """A convolution with bias and activation that replaces a ``ConvNormAct``.

    Its parameters take no gradient. In an exported or compiled network, where gradients of the
    input are recorded, and on other devices it consists of public operators; otherwise of oneDNN's
    convolution with the activation inside.

    Args:
        layer: The layer to fold, as it is in evaluation mode.
    """

    def __init__(self, layer: ConvNormAct) -> None:
        conv, norm = layer.conv, layer.norm
        with torch.device("meta"):  # the values come from the layer
            super().__init__(
                conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0],
                conv.groups, conv.kind, conv.dilation[0], bias=True,
            )  # fmt: skip
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("fusing needs batch normalization with running statistics")
        weight, bias = fuse_conv_bn_weights(
            conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        last = weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(last, requires_grad=False)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.act = copy.deepcopy(layer.act)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Conv2d's own name)
        """Convolve (B, C, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        padded, weight, padding_hw = self.pad(input)
        activation = _ONEDNN_ACTIVATIONS.get(type(self.act))
        if activation is None or not _onednn_takes(padded, weight):
            return self.act(self.convolve(padded, weight, padding_hw))
        return torch.ops.mkldnn._convolution_pointwise(
            padded, weight, self.bias, padding_hw, self.stride, self.dilation, self.groups,
            *activation, "",
        )  # fmt: skip


def fuse(module: nn.Module) -> nn.Module:
    """Return a copy of a network for inference, with folded layers.

    Every ``ConvNormAct``, at any depth, becomes a ``FusedConvAct``; a layer that is used at several
    places stays one. The outputs are those of the original in evaluation mode, up to rounding (1e-4
    of their size). Images in channels_last are fastest.

    Args:
        module: Any network of this package, in any mode. It is not changed.

    Returns:
        The copy, in evaluation mode. ``train()`` does not bring normalization back: train the
        original. Its state dict has other names, so save the original, too.

    Raises:
        ValueError: There is nothing to fold, or a normalization keeps no running statistics.
    """
    folded: dict[ConvNormAct, FusedConvAct] = {
        layer: FusedConvAct(layer) for layer in module.modules() if isinstance(layer, ConvNormAct)
    }
    if not folded:
        raise ValueError(f"{type(module).__name__} has no ConvNormAct: there is nothing to fold")
    # deepcopy replaces an object by its entry in the memo, wherever it is referred to.
    memo = {id(layer): fused for layer, fused in folded.items()}
    return copy.deepcopy(module, memo).eval()


def _onednn_takes(input: Tensor, weight: Tensor) -> bool:  # noqa: A002
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if tracing or torch.compiler.is_compiling() or input.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu") or (torch.is_grad_enabled() and input.requires_grad):
        return False
    if not torch.backends.mkldnn.is_available() or input.numel() == 0:
        return False
    if input.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return input.dtype == weight.dtype and input.dtype in (torch.float32, torch.bfloat16)
