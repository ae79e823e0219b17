"""Batches and detections, which data, heads and applications exchange.

NamedTuples, because Lightning moves them to the device as they are (a frozen dataclass fails
there). ``images`` are uint8 RGB as decoded, so in memory order channels_last; ``ids`` are positions
in the dataset, one for each image; ``paths`` are the files the images come from.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    landmarks: Tensor | None = None
    """(B, N, 5, 2) float32, x and y in the same pixels: eyes, nose, corners of the mouth, as seen
    in the image left before right; NaN where not annotated. None of data without landmarks."""


class DetectionBatch(NamedTuple):
    """A batch of images with their objects."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB."""
    target: DetectionTarget
    image_ids: Tensor
    """(B,) int64, the ids of the annotation file."""
    sizes_hw: Tensor
    """(B, 2) int64, height and width of the original images in pixels, EXIF rotation applied."""
    paths: tuple[str, ...]


class ClassificationBatch(NamedTuple):
    """A batch of images with one class each."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB."""
    labels: Tensor
    """(B,) int64, class index in [0, num_classes); -1 where it is not known."""
    ids: Tensor
    """(B,) int64."""
    paths: tuple[str, ...]


class FaceBatch(NamedTuple):
    """A batch of aligned faces."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB."""
    identities: Tensor
    """(B,) int64, person index in [0, number of people); -1 where it is not known."""
    views: Tensor
    """(B,) int64, the number of the file's view; 0 is the plain face."""
    ids: Tensor
    """(B,) int64."""
    paths: tuple[str, ...]


class AttributeBatch(NamedTuple):
    """A batch of faces with yes/no labels, landmarks and people."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB."""
    labels: Tensor
    """(B, A) int8: 1 yes, 0 no, -1 not known."""
    landmarks: Tensor
    """(B, 5, 2) float32, x and y in px of ``images``: eyes, nose, corners of the mouth, as seen in
    the image left before right; NaN where they are not known."""
    identities: Tensor
    """(B,) int64, person index in [0, number of people); -1 where it is not known."""
    ids: Tensor
    """(B,) int64."""
    paths: tuple[str, ...]


class Detections(NamedTuple):
    """Detections in one image (K rows), or in a batch of images (B, K, ...).

    Rows are sorted by falling score. In a batch every image has K rows; rows past its last
    detection have score 0 and label -1.
    """

    boxes: Tensor
    """(..., K, 4) float32, xyxy, absolute pixels."""
    scores: Tensor
    """(..., K) float32 in [0, 1]."""
    labels: Tensor
    """(..., K) int64, class index in [0, num_classes); -1 marks padding."""
    landmarks: Tensor | None = None
    """(..., K, 5, 2) float32, x and y in the same pixels; None of a detector without them."""

    def unbatch(self) -> "list[Detections]":
        """Split a batch (B, K, ...) into one Detections for each image, without the padding."""
        counts = (self.labels != PADDING_LABEL).sum(dim=1).tolist()
        return [
            self._make(None if field is None else field[row, :count] for field in self)
            for row, count in enumerate(counts)
        ]


def stack_targets(
    boxes: list[Tensor],
    labels: list[Tensor],
    crowd: list[Tensor],
    landmarks: list[Tensor] | None = None,
) -> DetectionTarget:
    """Pad the rows of B images of N_i objects each; N_i may be 0.

    They are boxes (N_i, 4), labels (N_i,), crowd (N_i,) and, where there are any, landmarks
    (N_i, 5, 2).
    """
    pad = partial(pad_sequence, batch_first=True)
    padded = pad(boxes).reshape(len(boxes), -1, 4)
    points = None if landmarks is None else pad(landmarks, padding_value=torch.nan)
    return DetectionTarget(padded, pad(labels, padding_value=PADDING_LABEL), pad(crowd), points)
