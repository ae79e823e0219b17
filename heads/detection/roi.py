"""The second stage of Faster R-CNN on a MobileNet: what each proposal shows, and where exactly."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.ops import roi_align

from ...backbone.layers import DepthwiseSeparable, Padding

ROI_CHANNELS = 1024  # blocks 12 and 13 of Table 1; the width multiplier does not thin them
SAMPLES_PER_BIN = 2  # in each direction (He et al. 2017, Mask R-CNN, Section 3)


class RoIOutput(NamedTuple):
    """What the second stage says about each of P proposals."""

    class_logits: Tensor
    """(B, P, num_classes + 1); column 0 is background."""
    box_deltas: Tensor
    """(B, P, num_classes, 4) offsets from the proposal, one box for each class."""


class RoIHead(nn.Module):
    """RoIAlign, blocks 12 and 13 of MobileNet at stride 1, average pooling, two linear layers.

    All proposals of all images are one batch of (B * P) small maps.

    Args:
        in_channels: Channels of the map.
        stride: Pixels for each step on the map.
        num_classes: Classes, background not counted.
        pooled_size: Cells of RoIAlign's output in each direction.
        padding: Padding of the blocks, see ``backbone.layers``; the same thing at stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        stride: int,
        num_classes: int,
        pooled_size: int = 7,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        self.stride = stride
        self.num_classes = num_classes
        self.pooled_size = pooled_size
        self.blocks = nn.Sequential(
            DepthwiseSeparable(in_channels, ROI_CHANNELS, padding=padding),
            DepthwiseSeparable(ROI_CHANNELS, ROI_CHANNELS, padding=padding),
        )
        self.classes = nn.Linear(ROI_CHANNELS, num_classes + 1)
        self.boxes = nn.Linear(ROI_CHANNELS, num_classes * 4)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for layer, std in ((self.classes, 0.01), (self.boxes, 0.001)):  # Girshick 2015, Section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, boxes: Tensor) -> RoIOutput:
        """Look at each box.

        Args:
            features: (B, C, H, W) map.
            boxes: (B, P, 4) xyxy in pixels of the network's input.
        """
        num_images, count = boxes.shape[:2]
        maps = self.blocks(self.pool(features, boxes))
        # As avg_pool2d, whose gradient keeps the memory format; that of mean() does not, and makes
        # the normalisation before it several times slower on CPUs under channels_last.
        pooled = F.avg_pool2d(maps, self.pooled_size).flatten(1)
        return RoIOutput(
            self.classes(pooled).view(num_images, count, self.num_classes + 1),
            self.boxes(pooled).view(num_images, count, self.num_classes, 4),
        )

    def nothing(self, features: Tensor) -> RoIOutput:
        """Return the output for no boxes at all."""
        shape = (len(features), 0, self.num_classes)
        return RoIOutput(
            features.new_zeros(*shape[:2], self.num_classes + 1), features.new_zeros(*shape, 4)
        )

    def pool(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Return (B * P, C, pooled_size, pooled_size), the map at each box (B, P, 4)."""
        num_images, count = boxes.shape[:2]
        images = torch.arange(num_images, device=boxes.device, dtype=boxes.dtype)
        rows = torch.cat([images.repeat_interleave(count)[:, None], boxes.flatten(0, 1)], dim=1)
        return roi_align(
            features,
            rows.to(features.dtype),
            self.pooled_size,
            spatial_scale=1 / self.stride,
            sampling_ratio=SAMPLES_PER_BIN,
            aligned=True,
        )
