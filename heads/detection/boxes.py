"""Box arithmetic, vectorized over the batch.

Boxes are xyxy in absolute pixels unless named otherwise.
"""

import torch
from torch import Tensor, nn

# exp() of a size offset is cut here, as in torchvision: a box at most 1000/16 times its anchor.
MAX_LOG_SCALE = 4.135166556742356


def pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection areas (..., N, M) of boxes a (..., N, 4) and b (..., M, 4)."""
    top_left = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    bottom_right = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (bottom_right - top_left).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def area(boxes: Tensor) -> Tensor:
    """Return the areas (...,) of boxes (..., 4); 0 for empty boxes."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union (..., N, M) of a (..., N, 4) and b (..., M, 4).

    Unlike ``torchvision.ops.box_iou`` it takes batches; the IoU with an empty box is 0.
    """
    intersection = pairwise_intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return intersection / union.clamp_min(torch.finfo(union.dtype).tiny)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union (...,) of boxes a (..., 4) each with its partner in b."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = sides.clamp_min(0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1) for boxes in (a, b)]
    union = areas[0] + areas[1] - intersection
    return intersection / union.clamp_min(torch.finfo(union.dtype).tiny)


class BoxCoder(nn.Module):
    """Boxes as offsets from anchors (Liu et al. 2016, equation 2; Ren et al. 2015, equation 2).

    dx = weight_x * (x - x_a) / w_a, dw = weight_w * log(w / w_a), likewise y and h, with centers x,
    y and sizes w, h.

    Args:
        weights: Factors of (dx, dy, dw, dh); SSD uses 10, 10, 5, 5 (variances 0.1 and 0.2).
    """

    def __init__(self, weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.weights: Tensor

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the deltas (..., 4) that turn anchors (..., 4) into boxes (..., 4)."""
        tiny = torch.finfo(boxes.dtype).eps
        sizes = (boxes[..., 2:] - boxes[..., :2]).clamp_min(tiny)
        centers = (boxes[..., 2:] + boxes[..., :2]) / 2
        anchor_sizes = anchors[..., 2:] - anchors[..., :2]
        anchor_centers = (anchors[..., 2:] + anchors[..., :2]) / 2
        offsets = (centers - anchor_centers) / anchor_sizes
        return torch.cat([offsets, torch.log(sizes / anchor_sizes)], dim=-1) * self.weights

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Return the boxes (..., 4) of deltas (..., 4) at anchors (..., 4); not clipped."""
        deltas = deltas / self.weights
        anchor_sizes = anchors[..., 2:] - anchors[..., :2]
        anchor_centers = (anchors[..., 2:] + anchors[..., :2]) / 2
        centers = deltas[..., :2] * anchor_sizes + anchor_centers
        half = torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * anchor_sizes / 2
        return torch.cat([centers - half, centers + half], dim=-1)


def clip_boxes(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) cut to an image of ``size_hw`` pixels."""
    height, width = size_hw
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp_min(0), limit)
