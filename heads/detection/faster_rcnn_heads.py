"""The two stages of Faster R-CNN: the region proposal network and the head of the regions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.ops import batched_nms, roi_align

from ...backbone.layers import DepthwiseSeparable, Padding
from .boxes import BoxCoder, boxes_around, clip_boxes


class RPNOutput(NamedTuple):
    """The first stage's output at each of A anchors."""

    objectness: Tensor
    """(B, A) logits."""
    box_deltas: Tensor
    """(B, A, 4) encoded offsets from the anchors."""
    anchors: Tensor
    """(A, 4) float32 xyxy in pixels of the network's input."""


class Proposals(NamedTuple):
    """The input of the second stage: P boxes for each image, however many survived NMS."""

    boxes: Tensor
    """(B, P, 4) float32 xyxy in pixels, inside the image; the best first; no gradient."""
    valid: Tensor
    """(B, P) bool; False marks padding: boxes that NMS removed, or that are empty."""


class GridAnchors(nn.Module):
    """Boxes of every size and shape at the center of every cell of one map.

    torchvision's AnchorGenerator takes the stride to be image // map, which is 15 for the 19
    cells of 300 pixels; here it is the backbone's own.

    Args:
        sizes: Square root of the boxes' areas in pixels. The Object Detection API has 64 to 512
            for images whose shorter side is 600 pixels.
        aspect_ratios: Width / height.
    """

    def __init__(
        self,
        sizes: Sequence[float] = (64.0, 128.0, 256.0, 512.0),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    ) -> None:
        super().__init__()
        self.shapes_hw = [
            (size / math.sqrt(ratio), size * math.sqrt(ratio))
            for size in sizes
            for ratio in aspect_ratios
        ]

    @property
    def boxes_per_cell(self) -> int:
        """Boxes at each position of the map."""
        return len(self.shapes_hw)

    def forward(self, map_size_hw: tuple[int, int], stride: int, device: torch.device) -> Tensor:
        """Return the boxes (A, 4) float32 xyxy in pixels, also those over the image's edge.

        Rows run over rows of cells, then cells, then boxes of a cell; cell i has its center at
        (i + 0.5) * stride.
        """
        y, x = (
            (torch.arange(cells, dtype=torch.float32, device=device) + 0.5) * stride
            for cells in map_size_hw
        )
        return boxes_around(y, x, torch.tensor(self.shapes_hw, device=device))


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and box offsets by one 1x1 convolution each.

    Objectness is one logit for each anchor. The Object Detection API has a softmax over two, which
    is the same function with 6 thousand more parameters.
    """

    def __init__(self, in_channels: int, channels: int, boxes_per_cell: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.act = nn.ReLU6(inplace=True)
        self.objectness = nn.Conv2d(channels, boxes_per_cell, 1)
        self.boxes = nn.Conv2d(channels, boxes_per_cell * 4, 1)
        for layer in (self.conv, self.objectness, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return objectness (B, H*W*boxes) and offsets (B, H*W*boxes, 4) of (B, C, H, W)."""
        hidden = self.act(self.conv(features))
        objectness = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.boxes(hidden).permute(0, 2, 3, 1).reshape(features.shape[0], -1, 4)
        return objectness, deltas


class ProposalSelection(nn.Module):
    """Selects proposals by NMS, the same number for each image, so that they are a dense batch.

    Args:
        count: Proposals for each image (Howard et al. 2017, Section 4.6: 300); fewer only where
            the map has fewer anchors.
        candidates: The best anchors of each image, which go through NMS.
        iou_threshold: A box goes if it overlaps a better one by more than this.
        min_size: Boxes with a side of fewer pixels, once clipped to the image, are empty.
    """

    def __init__(
        self,
        count: int = 300,
        candidates: int = 2000,
        iou_threshold: float = 0.7,
        min_size: float = 1e-3,
    ) -> None:
        super().__init__()
        self.count = count
        self.candidates = candidates
        self.iou_threshold = iou_threshold
        self.min_size = min_size

    @torch.no_grad()
    def forward(self, rpn: RPNOutput, box_coder: BoxCoder, size_hw: tuple[int, int]) -> Proposals:
        """Return the proposals of a batch of images of ``size_hw`` pixels."""
        objectness = rpn.objectness.float()
        scores, index = objectness.topk(min(self.candidates, objectness.shape[1]), dim=1)
        deltas = rpn.box_deltas.float().gather(1, index[..., None].expand(-1, -1, 4))
        boxes = clip_boxes(box_coder.decode(deltas, rpn.anchors[index]), size_hw)

        large = ((boxes[..., 2:] - boxes[..., :2]) >= self.min_size).all(dim=-1)
        image, row = large.nonzero(as_tuple=True)
        best = batched_nms(boxes[image, row], scores[image, row], image, self.iou_threshold)
        kept = torch.zeros_like(large)
        kept[image[best], row[best]] = True

        # Rows are sorted already: a stable sort brings the kept ones to the front. The padding
        # behind them are real boxes, so that batch normalization gets no artificial ones.
        front = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : self.count]
        return Proposals(boxes.gather(1, front[..., None].expand(-1, -1, 4)), kept.gather(1, front))


ROI_CHANNELS = 1024  # blocks 12 and 13 of Table 1; the width multiplier does not thin them
SAMPLES_PER_BIN = 2  # in each direction (He et al. 2017, Mask R-CNN, Section 3)


class RoIOutput(NamedTuple):
    """The second stage's output at each of P proposals."""

    class_logits: Tensor
    """(B, P, num_classes + 1); column 0 is background."""
    box_deltas: Tensor
    """(B, P, num_classes, 4) offsets from the proposal, one box for each class."""


class RoIHead(nn.Module):
    """RoIAlign, blocks 12 and 13 of MobileNet at stride 1, average pooling, two linear layers.

    All proposals of all images are one batch of (B * P) small maps.
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
        self._initialize()

    def _initialize(self) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for layer, std in ((self.classes, 0.01), (self.boxes, 0.001)):  # Girshick 2015, Section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, boxes: Tensor) -> RoIOutput:
        """Predict the class and the box of each proposal.

        Args:
            features: (B, C, H, W) map.
            boxes: (B, P, 4) xyxy in pixels of the network's input.
        """
        num_images, count = boxes.shape[:2]
        maps = self.blocks(self.pool(features, boxes))
        # As avg_pool2d, whose gradient keeps the memory format; that of mean() does not, and makes
        # the normalization before it several times slower on CPUs under channels_last.
        pooled = F.avg_pool2d(maps, self.pooled_size).flatten(1)
        return RoIOutput(
            self.classes(pooled).view(num_images, count, self.num_classes + 1),
            self.boxes(pooled).view(num_images, count, self.num_classes, 4),
        )

    def nothing(self, features: Tensor) -> RoIOutput:
        """Return the output for no boxes."""
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
