"""The layers that MobileNet and its heads are built from (Howard et al. 2017, Figure 3)."""

from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Padding = Literal["same", "symmetric"]
"""``same``: TensorFlow's SAME, which at stride 2 pads an even size only after its end.
``symmetric``: (kernel - 1) / 2 on every side, as PyTorch models do."""


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output size is ceil(input / stride).

    The total padding of an axis is max((ceil(n / stride) - 1) * stride + kernel - n, 0), half of it
    (rounded down) before and the rest after.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (nn.Conv2d's own name)
        """Convolve (B, C, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        top, bottom = self._padding_of_axis(input.shape[-2], 0)
        left, right = self._padding_of_axis(input.shape[-1], 1)
        if top == bottom and left == right:  # no copy where the convolution can pad by itself
            return F.conv2d(
                input, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups
            )
        return super().forward(F.pad(input, (left, right, top, bottom)))

    def _padding_of_axis(self, size: int, axis: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[axis], self.stride[axis]
        extent = (kernel - 1) * self.dilation[axis] + 1
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        return total // 2, total - total // 2


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU6."""

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
    ) -> None:
        if padding == "same":
            conv: nn.Conv2d = SameConv2d(
                in_channels, out_channels, kernel_size, stride, groups=groups, bias=False
            )
        else:
            conv = nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding=(kernel_size - 1) // 2,
                groups=groups,
                bias=False,
            )
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        self.act = nn.ReLU6(inplace=True)


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 depthwise and a 1x1 pointwise convolution (Howard et al. 2017, Section 3.1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
    ) -> None:
        norm = {"norm_eps": norm_eps, "norm_momentum": norm_momentum}
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, stride, groups=in_channels, padding=padding, **norm
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, padding=padding, **norm)
