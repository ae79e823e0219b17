"""What passes between data, heads and applications.

NamedTuples, because Lightning moves them to the device as they are (a frozen dataclass fails
there).
"""

from typing import NamedTuple

import torch
from torch import Tensor

PADDING_LABEL = -1


class DetectionTarget(NamedTuple):
    """Ground truth of a batch, padded to the most boxes N that any of its images has.

    Padding keeps the losses free of loops over images. A padded row has label -1 and a zero box.
    """

    boxes: Tensor
    """(B, N, 4) float32, xyxy, absolute pixels of the network's input."""
    labels: Tensor
    """(B, N) int64, class index in [0, num_classes); -1 marks padding."""
    crowd: Tensor
    """(B, N) bool; True marks a region to ignore (COCO's ``iscrowd``), not an object."""


class DetectionBatch(NamedTuple):
    """A batch of images, as the data modules hand it on."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB; as decoded, so in memory order channels_last."""
    target: DetectionTarget
    image_ids: Tensor
    """(B,) int64, the ids of the annotation file."""
    sizes_hw: Tensor
    """(B, 2) int64, height and width of the original images in pixels, EXIF rotation applied."""
    paths: tuple[str, ...]
    """The files the images come from, for messages."""


class ClassificationBatch(NamedTuple):
    """A batch of images with one class each."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB; as decoded, so in memory order channels_last."""
    labels: Tensor
    """(B,) int64, class index in [0, num_classes); -1 where it is not known."""
    ids: Tensor
    """(B,) int64, the position in the data set, one for each image."""
    paths: tuple[str, ...]
    """The files the images come from."""


class FaceBatch(NamedTuple):
    """A batch of aligned faces."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB; as rendered, so in memory order channels_last."""
    identities: Tensor
    """(B,) int64, person index in [0, number of people); -1 where it is not known."""
    views: Tensor
    """(B,) int64, which view of the file it is; 0 is the plain face."""
    ids: Tensor
    """(B,) int64, the position in the data set."""
    paths: tuple[str, ...]
    """The files the images come from."""


class AttributeBatch(NamedTuple):
    """A batch of faces with yes/no labels, and whose they are."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB; as decoded, so in memory order channels_last."""
    labels: Tensor
    """(B, A) int8: 1 yes, 0 no, -1 not known."""
    landmarks: Tensor
    """(B, 5, 2) float32, x and y in px of ``images``: eyes, nose, corners of the mouth, as seen in
    the image left before right; NaN where they are not known."""
    identities: Tensor
    """(B,) int64, person index in [0, number of people); -1 where it is not known."""
    ids: Tensor
    """(B,) int64, the position in the data set, one for each image."""
    paths: tuple[str, ...]
    """The files the images come from."""


class Detections(NamedTuple):
    """What a detector found in one image (K rows), or in a batch of images (B, K, ...).

    Rows are sorted by falling score. In a batch every image has K rows; rows past its last
    detection have score 0 and label -1.
    """

    boxes: Tensor
    """(..., K, 4) float32, xyxy, absolute pixels."""
    scores: Tensor
    """(..., K) float32 in [0, 1]."""
    labels: Tensor
    """(..., K) int64, class index in [0, num_classes); -1 marks padding."""

    def unbatch(self) -> "list[Detections]":
        """Split a batch (B, K, ...) into one Detections for each image, without the padding."""
        counts = (self.labels != PADDING_LABEL).sum(dim=1).tolist()
        return [
            Detections(boxes[:count], scores[:count], labels[:count])
            for boxes, scores, labels, count in zip(*self, counts, strict=True)
        ]


def stack_targets(
    boxes: list[Tensor], labels: list[Tensor], crowd: list[Tensor]
) -> DetectionTarget:
    """Pad the ground truth of B images to one DetectionTarget.

    Args:
        boxes: B tensors (N_i, 4) float32, xyxy pixels; N_i may be 0.
        labels: B tensors (N_i,) int64.
        crowd: B tensors (N_i,) bool.
    """
    return DetectionTarget(
        _pad(boxes, 0.0).reshape(len(boxes), -1, 4),
        _pad(labels, PADDING_LABEL),
        _pad(crowd, False),
    )


def _pad(rows: list[Tensor], value: float | int | bool) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
