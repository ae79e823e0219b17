"""MobileNet (Howard et al. 2017, "MobileNets", arXiv 1704.04861), Table 1, read in one sitting.

    stem    3x3 convolution, stride 2                32 channels   stride  2
    block 1                                          64            stride  2
    block 2, 3                                      128            stride  4
    block 4, 5                                      256            stride  8
    block 6 ... 11                                  512            stride 16
    block 12, 13                                   1024            stride 32

Each block is a depthwise 3x3 and a pointwise 1x1 convolution. The width multiplier of Section 3.3
thins every layer; the resolution multiplier of Section 3.4 is simply a smaller input.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .features import Backbone, FeatureInfo
from .layers import ConvNormAct, DepthwiseSeparable, Padding

STEM_CHANNELS = 32
BLOCKS = (  # (channels, stride) of the 13 blocks of Table 1
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)


def scale_channels(channels: int, width_mult: float) -> int:
    """Channels of a layer under the width multiplier (Section 3.3), at least 8."""
    return max(int(channels * width_mult), 8)


class MobileNetV1(nn.Module):
    """MobileNet's body: pictures to feature maps, without a classifier.

    Args:
        width_mult: Width multiplier alpha of Section 3.3; the paper uses 1, 0.75, 0.5 and 0.25.
        out_strides: The maps to hand on, finest first, by stride: for each of them the last map
            at that stride, so (16, 32) gives blocks 11 and 13.
        padding: ``same`` as in TensorFlow, where the public weights come from, or ``symmetric``.
        norm_eps: Epsilon of batch normalisation (TensorFlow 1e-3, PyTorch and timm 1e-5).
        norm_momentum: Momentum of the running statistics in PyTorch's sense: the share of the
            new batch. TensorFlow's detection models use 0.0003, its classifiers 0.003; short
            training on few pictures needs more.

    Raises:
        ValueError: width_mult is not positive, or out_strides are not rising strides of the net.
    """

    def __init__(
        self,
        width_mult: float = 1.0,
        out_strides: Sequence[int] = (16, 32),
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
    ) -> None:
        super().__init__()
        if width_mult <= 0:
            raise ValueError(f"width_mult must be positive, got {width_mult}")
        self.width_mult = width_mult
        options = {"padding": padding, "norm_eps": norm_eps, "norm_momentum": norm_momentum}
        channels, stride = scale_channels(STEM_CHANNELS, width_mult), 2
        self.stem = ConvNormAct(3, channels, 3, stride, **options)
        self.blocks = nn.ModuleList()
        last_at_stride: dict[int, tuple[int, int]] = {}  # stride -> (index of block, channels)
        for index, (base, block_stride) in enumerate(BLOCKS):
            out_channels = scale_channels(base, width_mult)
            self.blocks.append(DepthwiseSeparable(channels, out_channels, block_stride, **options))
            channels, stride = out_channels, stride * block_stride
            last_at_stride[stride] = (index, channels)

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
        self.apply(_initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps at ``out_strides``, finest first.

        Args:
            images: (B, 3, H, W) float, RGB in [-1, 1]; any size, odd and rectangular ones too.

        Returns:
            For each stride a (B, channels, ceil(H / stride), ceil(W / stride)) map.
        """
        features = self.stem(images)
        maps = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in self._taps:
                maps.append(features)
        return tuple(maps)


class ImageClassifier(nn.Module):
    """Global average pooling, dropout and a linear layer on a backbone's last map (Table 1).

    Args:
        backbone: Any feature extractor behind the Backbone protocol.
        num_classes: Classes of the output; 1,000 for ImageNet (no background class).
        dropout: Probability of dropping a pooled feature while training.
    """

    def __init__(self, backbone: Backbone, num_classes: int = 1000, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.feature_info.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of pictures (B, 3, H, W), RGB in [-1, 1]."""
        features = self.backbone(images)[-1]
        return self.classifier(self.dropout(features.mean(dim=(2, 3))))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        # He et al. 2015, equation 14; a depthwise output goes to one channel's neighbours only.
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
