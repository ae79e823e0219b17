"""MobileNet (Howard et al. 2017, "MobileNets", arXiv 1704.04861), Table 1.

    stem    3x3 convolution, stride 2                32 channels   stride  2
    block 1                                          64            stride  2
    block 2, 3                                      128            stride  4
    block 4, 5                                      256            stride  8
    block 6 ... 11                                  512            stride 16
    block 12, 13                                   1024            stride 32

Each block is a depthwise 3x3 and a pointwise 1x1 convolution. The width multiplier of Section 3.3
thins every layer; the resolution multiplier of Section 3.4 is simply a smaller input. The paper
compares with two more networks: one of full convolutions (Table 4), and a shallow one without
blocks 7 to 11 (Table 5).
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import (
    ACTIVATIONS,
    Activation,
    ConvNormAct,
    DepthwiseSeparable,
    Padding,
    recomputation_contexts,
)


class FeatureInfo(NamedTuple):
    """Shapes of the feature maps of a backbone, finest first."""

    channels: tuple[int, ...]
    """Channels of each map."""
    strides: tuple[int, ...]
    """Input pixels for each step on the map: H x W pixels become about H/stride x W/stride."""


@runtime_checkable
class Backbone(Protocol):
    """Anything that turns images into feature maps.

    Heads read channels and strides from ``feature_info`` and no names of layers, so any feature
    extractor behind this protocol works with any head.
    """

    feature_info: FeatureInfo

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of normalized images.

        Args:
            images: (B, 3, H, W) float, RGB, in the range that the backbone was trained on
                ([-1, 1] for MobileNet).

        Returns:
            One (B, channels, ~H/stride, ~W/stride) map for each entry of ``feature_info``.
        """
        ...


def require_features(backbone: nn.Module) -> FeatureInfo:
    """Return the ``feature_info`` of a backbone.

    Raises:
        TypeError: The module does not follow the ``Backbone`` protocol.
    """
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{type(backbone).__name__} has no feature_info: it is no Backbone")
    return backbone.feature_info


def normalize_pixels(
    images: Tensor, pixel_mean: float | Sequence[float] | Tensor, pixel_std: float | Tensor
) -> Tensor:
    """Return uint8 or float images as float, less the mean and divided by the deviation.

    A sequence is one mean for each channel.
    """
    if isinstance(pixel_mean, Sequence):
        pixel_mean = torch.tensor(pixel_mean, device=images.device)[:, None, None]
    return (images.float() - pixel_mean) / pixel_std


class ClassRows(NamedTuple):
    """How the rows of a layer belong to classes: groups of equal size, one class after another."""

    background: bool = False
    """Whether a group begins with rows of background."""
    each: int = 1
    """Rows of a class."""


class ImageNetwork(nn.Module):
    """Base of the networks: normalized pixels go to a backbone; a subclass adds the heads.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol.
        pixel_mean: Subtracted from the uint8 pixels before the backbone; one number for all
            channels, or three for R, G and B.
        pixel_std: Then divided by; 127.5 and 127.5 give [-1, 1].

    Raises:
        TypeError: backbone does not follow the protocol.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pixel_mean: float | Sequence[float] = 127.5,
        pixel_std: float = 127.5,
    ) -> None:
        super().__init__()
        self.backbone_info = require_features(backbone)
        self.backbone = backbone
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std

    def class_layers(self) -> dict[str, ClassRows]:
        """Return the layers whose rows are those of classes, by their names in the network.

        Weights of another network fill them by the names of the classes.
        """
        return {}

    def normalized(self, images: Tensor) -> Tensor:
        """Return what the backbone takes for images (B, 3, H, W) uint8 or float in [0, 255]."""
        return normalize_pixels(images, self.pixel_mean, self.pixel_std)


Convolution = Literal["separable", "full"]
"""``separable``: a block is a depthwise and a pointwise convolution (Section 3.1).
``full``: a block is one 3x3 convolution over all channels, as in Table 4."""

STEM_CHANNELS = 32
BLOCKS = (  # (channels, stride) of the 13 blocks of Table 1
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
SHALLOW_BLOCKS = BLOCKS[:6] + BLOCKS[11:]  # Table 5: without the five at 14x14x512


def scale_channels(channels: int, width_mult: float) -> int:
    """Return the channels of a layer under the width multiplier (Section 3.3), at least 8."""
    return max(int(channels * width_mult), 8)


class MobileNetV1(nn.Module):
    """MobileNet's body: images to feature maps, without a classifier.

    Args:
        width_mult: Width multiplier alpha of Section 3.3; the paper uses 1, 0.75, 0.5 and 0.25.
        out_strides: Strides of the maps to return, finest first: of each the last map at that
            stride, so (16, 32) gives blocks 11 and 13.
        padding: ``same`` as in TensorFlow, where the public weights come from, or ``symmetric``.
        norm_eps: Epsilon of batch normalization (TensorFlow 1e-3, PyTorch and timm 1e-5).
        norm_momentum: Momentum of the running statistics in PyTorch's sense: the share of the
            new batch. TensorFlow's detection models use 0.0003, its classifiers 0.003; short
            training on few images needs more.
        convolution: ``separable``, or ``full`` for the network that Table 4 compares with.
        shallow: Leave out five blocks at stride 16 (Table 5): 8 blocks instead of 13.
        output_stride: 32, or 16 or 8 for maps that are no coarser: later strides become 1, and the
            blocks that follow them are dilated so that they see as much of the image (Chen et
            al. 2017, "Rethinking Atrous Convolution", Section 3.1). The weights are the same.
        gradient_checkpointing: Keep the inputs of the blocks only and calculate the rest again in
            the backward pass: less memory for about a third more time. Gradients and running
            statistics do not change. Ignored under torch.compile, which decides by itself.
        activation: ``relu6`` as in TensorFlow, where the public weights come from, or ``relu`` as
            in the paper's Figure 3: runtimes fuse it into convolutions, where ReLU6 may cost
            another pass over the maps; ``leaky_relu`` for the public face detector. Weights of
            one need training to serve the other.

    Raises:
        ValueError: width_mult is not positive, convolution, output_stride or activation is
            unknown, or out_strides are not rising strides of the net.
    """

    def __init__(
        self,
        width_mult: float = 1.0,
        out_strides: Sequence[int] = (16, 32),
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
        convolution: Convolution = "separable",
        shallow: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        gradient_checkpointing: bool = False,
        activation: Activation = "relu6",
    ) -> None:
        super().__init__()
        if width_mult <= 0:
            raise ValueError(f"width_mult must be positive, got {width_mult}")
        if convolution not in ("separable", "full"):
            raise ValueError(f"convolution must be 'separable' or 'full', got {convolution!r}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}"
            )
        self.width_mult = width_mult
        self.activation = activation
        self.gradient_checkpointing = gradient_checkpointing
        options: dict[str, Any] = {
            "padding": padding, "norm_eps": norm_eps, "norm_momentum": norm_momentum,
            "activation": activation,
        }  # fmt: skip
        channels, stride, dilation = scale_channels(STEM_CHANNELS, width_mult), 2, 1
        self.stem = ConvNormAct(3, channels, 3, stride, **options)
        self.blocks = nn.ModuleList()
        last_at_stride: dict[int, tuple[int, int]] = {}  # stride -> (index of block, channels)
        for index, (base, block_stride) in enumerate(SHALLOW_BLOCKS if shallow else BLOCKS):
            out_channels, next_dilation = scale_channels(base, width_mult), dilation
            if stride * block_stride > output_stride:
                next_dilation, block_stride = dilation * block_stride, 1  # noqa: PLW2901
            options["dilation"] = dilation
            self.blocks.append(
                DepthwiseSeparable(channels, out_channels, block_stride, **options)
                if convolution == "separable"
                else ConvNormAct(channels, out_channels, 3, block_stride, **options)
            )
            channels, stride, dilation = out_channels, stride * block_stride, next_dilation
            last_at_stride[stride] = (index, channels)
        self._choose_taps(out_strides, last_at_stride)
        self.apply(_initialize)

    def _choose_taps(
        self, out_strides: Sequence[int], last_at_stride: dict[int, tuple[int, int]]
    ) -> None:
        self.out_strides = tuple(out_strides)
        if not self.out_strides or list(self.out_strides) != sorted(
            set(self.out_strides) & set(last_at_stride)
        ):
            raise ValueError(
                f"out_strides must be rising and among {tuple(last_at_stride)}, got {out_strides}"
            )
        taps = [last_at_stride[tap] for tap in self.out_strides]
        self._taps = frozenset(index for index, _ in taps)
        self.feature_info = FeatureInfo(tuple(width for _, width in taps), self.out_strides)
        # Blocks past the last tap would hold parameters that no gradient reaches.
        del self.blocks[taps[-1][0] + 1 :]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers by stage; each stage begins where the stride doubles, the first is the stem's.

        Undilated, stage k ends with the map at stride 2^k.
        """
        stages: list[list[nn.Module]] = [[self.stem]]
        for block in self.blocks:
            if any(
                isinstance(each, nn.Conv2d) and max(each.stride) > 1 for each in block.modules()
            ):
                stages.append([])
            stages[-1].append(block)
        return stages

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, out_strides: Sequence[int] = (16, 32)
    ) -> "MobileNetV1":
        """Make the backbone of a weight file, in evaluation mode.

        See ``backbone.weights.loading.load_pretrained``. Nothing is downloaded. TensorFlow's
        inference files have normalization folded in; ``layers.calibrate_norms`` restores it before
        training.
        """
        from .weights.loading import load_pretrained

        return load_pretrained(name_or_path, out_strides)[0]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps at ``out_strides``, finest first.

        Args:
            images: (B, 3, H, W) float, RGB in [-1, 1]; any size, odd and rectangular ones too.

        Returns:
            For each stride a (B, channels, ceil(H / stride), ceil(W / stride)) map.
        """
        recompute = (
            self.gradient_checkpointing
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )
        features, maps = images, []
        for index, layer in enumerate((self.stem, *self.blocks), start=-1):
            features = _recomputed(layer, features) if recompute else layer(features)
            if index in self._taps:
                maps.append(features)
        return tuple(maps)


def _recomputed(layer: nn.Module, features: Tensor) -> Tensor:
    """Run a layer whose activations are computed again in the backward pass, not kept."""
    return checkpoint(  # type: ignore[return-value]
        layer,
        features,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing here is random
        context_fn=partial(recomputation_contexts, layer),
    )


class ImageClassifier(nn.Module):
    """Global average pooling, dropout and a linear layer on a backbone's last map (Table 1).

    Args:
        backbone: Any feature extractor behind the Backbone protocol.
        num_classes: Classes of the output; 1,000 for ImageNet (no background class).
        dropout: Probability of dropping a pooled feature while training.
        head_channels: Channels of one more 1x1 convolution with normalization and ReLU6 between
            the last map and the pooling: the "h" of timm's mobilenetv1_100h, which has
            max(1024, the channels of the map). None leaves it out, as the paper does.
        norm_eps: Epsilon of that normalization.
        norm_momentum: Momentum of its running statistics in PyTorch's sense.

    Raises:
        ValueError: num_classes is not positive, or dropout not in [0, 1).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 1000,
        dropout: float = 0.0,
        head_channels: int | None = None,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
    ) -> None:
        super().__init__()
        if num_classes < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"num_classes={num_classes} must be at least 1 and dropout={dropout} in [0, 1)"
            )
        self.backbone = backbone
        channels = backbone.feature_info.channels[-1]
        self.head: nn.Module = nn.Identity()
        if head_channels is not None:
            self.head = ConvNormAct(
                channels, head_channels, 1, norm_eps=norm_eps, norm_momentum=norm_momentum
            )
            self.head.apply(_initialize)
            channels = head_channels
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W), RGB in [-1, 1]."""
        features = self.head(self.backbone(images)[-1])
        return self.classifier(self.dropout(features.mean(dim=(2, 3))))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        # He et al. 2015, equation 14; a depthwise output goes to one channel's neighbors only.
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
