"""The layers that MobileNet and its heads are built from (Howard et al. 2017, Figure 3)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Padding = Literal["same", "symmetric"]
"""``same``: TensorFlow's SAME, which at stride 2 pads an even size only after its end.
``symmetric``: (kernel - 1) / 2 on every side, as PyTorch models do."""

Activation = Literal["relu6", "relu"]
"""``relu6``: min(max(x, 0), 6), with which the public weights were trained.
``relu``: max(x, 0), as the paper has it (Figure 3)."""
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu6": nn.ReLU6, "relu": nn.ReLU}


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
        """Return the input, the kernel's part to use, and what is to be padded on both sides."""
        top, bottom, rows = self._axis(int(input.shape[-2]), 0)
        left, right, columns = self._axis(int(input.shape[-1]), 1)
        if top != bottom or left != right:  # the convolution can only pad evenly by itself
            input = F.pad(input, (left, right, top, bottom))  # noqa: A001
            top = left = 0
        weight = self.weight
        if rows != slice(None) or columns != slice(None):
            weight = weight[:, :, rows, columns]
        return input, weight, (top, left)

    def convolve(self, input: Tensor, weight: Tensor, padding_hw: tuple[int, int]) -> Tensor:  # noqa: A002
        """Convolve what ``pad`` returned."""
        if self._trains_slowly_as_it_is(input):
            with torch.autocast("cpu", enabled=False):
                exact = self._convolved(input.float(), weight.float(), padding_hw)
            return exact.to(torch.get_autocast_dtype("cpu"))
        return self._convolved(input, weight, padding_hw)

    def _convolved(self, input: Tensor, weight: Tensor, padding_hw: tuple[int, int]) -> Tensor:  # noqa: A002
        return F.conv2d(
            input, weight, self.bias, self.stride, padding_hw, self.dilation, self.groups
        )

    def _trains_slowly_as_it_is(self, input: Tensor) -> bool:  # noqa: A002
        return (
            self.groups > 1
            and max(self.stride) > 1
            and input.device.type == "cpu"
            and self.training
            and torch.is_autocast_enabled("cpu")
        )

    def _axis(self, size: int, axis: int) -> tuple[int, int, slice]:
        """Padding before and after, and the taps of the kernel to use."""
        kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        outputs = -(-size // stride)
        extent = dilation * (kernel - 1) + 1
        if self.kind == "same":
            total = max((outputs - 1) * stride + extent - size, 0)
            before, after = total // 2, total - total // 2
        else:
            before = after = (extent - 1) // 2
        if outputs == 1 and dilation == 1:
            return 0, 0, slice(before, min(before + size, kernel))
        return before, after, slice(None)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation, activation (Figure 3)."""

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
        activation: Activation = "relu6",
    ) -> None:
        super().__init__()
        self.conv = PaddedConv2d(
            in_channels, out_channels, kernel_size, stride, groups, padding, dilation
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        self.act = ACTIVATIONS[activation](inplace=True)


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
    """Contexts of the two passes of ``torch.utils.checkpoint`` over ``module``.

    The second pass repeats the first on the same input: it must not move running statistics again.
    """
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let normalisation update copies of its buffers for a while."""
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
