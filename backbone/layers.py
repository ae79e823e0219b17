"""The layers that MobileNet and its heads are built from, and their folding for inference."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Padding = Literal["same", "symmetric"]
"""``same``: TensorFlow's SAME, which at stride 2 pads an even size only after its end.
``symmetric``: (kernel - 1) / 2 on every side, as PyTorch models do."""

Activation = Literal["relu6", "relu", "leaky_relu"]
"""``relu6``: min(max(x, 0), 6), with which the public weights were trained.
``relu``: max(x, 0), as the paper has it (Figure 3).
``leaky_relu``: max(x, x / 10), as in the public face detector."""
ACTIVATIONS: dict[Activation, Callable[..., nn.Module]] = {
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
}


class PaddedConv2d(nn.Conv2d):
    """A convolution whose output size is ceil(input / stride), with either kind of padding.

    With e = dilation * (kernel - 1) + 1 pixels under the kernel, SAME pads an axis by
    max((ceil(n / stride) - 1) * stride + e - n, 0) in total, half of it (rounded down) before and
    the rest after.

    Where an axis has a single output, the taps of the kernel that would only see padding are left
    out. The result is the same, and it avoids a fault of oneDNN on CPUs: in bfloat16 at stride 2
    the weight gradient of an input one pixel high is uninitialised memory (seen with torch 2.15).

    Depthwise filters with a stride are calculated in float32 where a CPU trains in bfloat16:
    oneDNN's gradient of them takes five times as long in bfloat16, a fifth of a whole step.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "same",
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride,
            dilation=dilation, groups=groups, bias=bias,
        )  # fmt: skip
        self.kind: Padding = padding

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Conv2d's own name)
        """Convolve (B, C, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.convolve(*self.pad(input))

    def pad(self, input: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:  # noqa: A002
        """Return the input, the part of the kernel to use, and the padding of both sides."""
        sides: list[tuple[int, int]] = []
        taps: list[slice] = []
        axes = zip(input.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        for size, kernel, stride, dilation in axes:
            size = int(size)  # noqa: PLW2901 (tracing hands out symbols)
            outputs = -(-size // stride)
            extent = dilation * (kernel - 1) + 1
            before = after = (extent - 1) // 2
            if self.kind == "same":
                total = max((outputs - 1) * stride + extent - size, 0)
                before, after = total // 2, total - total // 2
            alone = outputs == 1 and dilation == 1  # the other taps would see padding only
            sides.append((0, 0) if alone else (before, after))
            taps.append(slice(before, min(before + size, kernel)) if alone else slice(None))
        (top, bottom), (left, right), (rows, columns) = *sides, taps
        if top != bottom or left != right:  # the convolution can only pad evenly by itself
            input = F.pad(input, (left, right, top, bottom))  # noqa: A001
            top = left = 0
        weight = self.weight
        if rows != slice(None) or columns != slice(None):
            weight = weight[:, :, rows, columns]
        return input, weight, (top, left)

    def convolve(self, input: Tensor, weight: Tensor, padding_hw: tuple[int, int]) -> Tensor:  # noqa: A002
        """Convolve the result of ``pad``."""
        options = (self.bias, self.stride, padding_hw, self.dilation, self.groups)
        strided_depthwise = self.groups > 1 and max(self.stride) > 1
        on_cpu = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if self.training and strided_depthwise and on_cpu:
            with torch.autocast("cpu", enabled=False):
                exact = F.conv2d(input.float(), weight.float(), *options)
            return exact.to(torch.get_autocast_dtype("cpu"))
        return F.conv2d(input, weight, *options)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalization, activation (Figure 3) or, with None, none."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
        dilation: int = 1,
        activation: Activation | None = "relu6",
    ) -> None:
        super().__init__()
        self.conv = PaddedConv2d(
            in_channels, out_channels, kernel_size, stride, groups, padding, dilation
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        self.act = nn.Identity() if activation is None else ACTIVATIONS[activation](inplace=True)


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 depthwise and a 1x1 pointwise convolution (Howard et al. 2017, Section 3.1).

    Stride and dilation are those of the depthwise one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
        dilation: int = 1,
        activation: Activation = "relu6",
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "padding": padding, "norm_eps": norm_eps, "norm_momentum": norm_momentum,
            "activation": activation,
        }  # fmt: skip
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, stride, groups=in_channels, dilation=dilation, **options
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, **options)


def recomputation_contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the two passes of ``torch.utils.checkpoint`` over ``module``.

    The second pass, on the same input, must not update running statistics again.
    """
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let normalization update copies of its buffers for a while."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    buffers = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, originals in buffers:
        for name, buffer in originals.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, originals in buffers:
            for name, buffer in originals.items():
                setattr(norm, name, buffer)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that stays in evaluation mode, whatever its parents are put into.

    Made by ``freeze_norms``. Unlike torchvision's class of that name it is a ``BatchNorm2d`` with
    the same entries in the state dict, so that weights load, and layers fold, as without it.
    """

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)


def freeze_norms(module: nn.Module) -> int:
    """Replace every BatchNorm2d below ``module`` by a ``FrozenBatchNorm2d``, in place.

    For batches too small to normalize by. Weights that are loaded later are taken as usual.
    Returns the number of layers.
    """
    count = 0
    for parent in list(module.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen.to(norm.weight.device).requires_grad_(False).eval())
                count += 1
    return count


@torch.no_grad()
def set_folded_bias(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    """Make a normalization layer add ``bias`` (C,) and nothing else, in evaluation mode."""
    norm.running_mean.zero_()  # type: ignore[union-attr]
    norm.running_var.fill_(1.0)  # type: ignore[union-attr]
    norm.weight.fill_((1.0 + norm.eps) ** 0.5)
    norm.bias.copy_(bias)


@torch.no_grad()
def calibrate_norms(
    network: nn.Module, batches: Iterable[Tensor], norms: Sequence[nn.BatchNorm2d] | None = None
) -> int:
    """Measure the input of each BatchNorm2d and re-express its scale and shift by it, in place.

    With m and v the mean and variance of a layer's input over all given images, the layer gets
    running_mean = m, running_var = v, weight = scale * sqrt(v + eps), bias = shift + scale * m,
    where ``scale * x + shift`` is its function now. Its output in evaluation mode does not
    change (up to rounding); its output in training mode becomes the same on images of that
    kind.

    ``batches`` are inputs of the network, 32 images or more of the training data; it is called
    with each in evaluation mode. ``norms`` are the layers to calibrate; None takes all. Returns
    the number of images.

    Raises:
        ValueError: There was no batch.
    """
    if norms is None:
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    moments: dict[nn.Module, _Moments] = {norm: _Moments(norm.num_features) for norm in norms}
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs: moments[norm].add(inputs[0]))
        for norm in norms
    ]
    was_training, images = network.training, 0
    network.eval()
    try:
        for batch in batches:
            network(batch)
            images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    if images == 0:
        raise ValueError("calibration needs at least one batch of images")
    for norm in norms:
        _re_express(norm, *moments[norm].mean_and_variance())
    return images


def _re_express(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    running_mean, running_var = norm.running_mean, norm.running_var
    if running_mean is None or running_var is None:
        raise ValueError("calibration needs batch normalization with running statistics")
    scale = norm.weight / torch.sqrt(running_var + norm.eps)
    shift = norm.bias - scale * running_mean
    norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
    norm.bias.copy_(shift + scale * mean)
    running_mean.copy_(mean)
    running_var.copy_(variance)


class _Moments:
    """Mean and variance of each channel over batches (B, C, H, W), summed in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.sum_of_squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        wide = features.double()
        self.count += features.numel() // features.shape[1]
        self.sum += wide.sum(dim=(0, 2, 3)).cpu()
        self.sum_of_squares += wide.square().sum(dim=(0, 2, 3)).cpu()

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        variance = (self.sum_of_squares / self.count - mean.square()).clamp_min(0.0)
        return mean.float(), variance.float()


def _onednn_activation(act: nn.Module) -> tuple[str, list[float]] | None:
    """Return the name of an activation in oneDNN's convolution, and its parameters."""
    if isinstance(act, nn.LeakyReLU):
        return "leaky_relu", [act.negative_slope]
    return _ONEDNN_ACTIVATIONS.get(type(act))


_ONEDNN_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.ReLU: ("relu", []),
    nn.Identity: ("none", []),
}


class FusedConvAct(PaddedConv2d):
    """A convolution with bias and activation that replaces a ``ConvNormAct`` in evaluation mode.

    Its parameters take no gradient. In an exported or compiled network, where gradients of the
    input are recorded, and on other devices it consists of public operators; otherwise of
    oneDNN's convolution with the activation inside.
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
        activation = _onednn_activation(self.act)
        if activation is None or not _onednn_takes(padded, weight):
            return self.act(self.convolve(padded, weight, padding_hw))
        return torch.ops.mkldnn._convolution_pointwise(
            padded, weight, self.bias, padding_hw, self.stride, self.dilation, self.groups,
            *activation, "",
        )  # fmt: skip


def fuse(module: nn.Module) -> nn.Module:
    """Return a copy of a network for inference, with folded layers.

    Every ``ConvNormAct``, at any depth, becomes a ``FusedConvAct``; a layer that is used at
    several places stays one. The outputs are those of the original in evaluation mode, up to
    rounding (1e-4 of their size). Images in channels_last are fastest.

    ``module`` is not changed, and may be in any mode; the copy is in evaluation mode.
    ``train()`` does not bring normalization back: train the original. Its state dict has other
    names, so save the original, too.

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
