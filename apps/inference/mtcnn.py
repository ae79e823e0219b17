"""MTCNN as one function over images of any sizes with any number of faces.

Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", Section II: the first network (P-Net) proposes boxes at all places and scales, the second
(R-Net) rejects most of them, the third (O-Net) refines the box and places five landmarks. Networks
and weights are those of the package facenet-pytorch. The steps between them are implemented here,
because that package fails for images of different sizes, for images smaller than a face and where
all proposals are empty. Its conventions are kept, because its weights were trained with them: boxes
are counted from 1 and include their last pixel, so that a side is one more than the difference.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms

from ...datasets.errors import DataError
from .runtime import ModelMetadata
from .torch import as_batch, choose_device

_CELL, _STRIDE = 12, 2
"""Receptive field and stride of the first network, in px."""
_SCALE_STEP = 0.709
_IOU_IN_SCALE, _IOU = 0.5, 0.7
_CHUNK = 64
"""Most crops that go through the second and third network at once."""


class Faces(NamedTuple):
    """The K faces of one image, by falling score."""

    boxes: Tensor
    """(K, 4) float32, xyxy in px; may extend beyond the image."""
    landmarks: Tensor
    """(K, 5, 2) float32, x and y in px: eyes, nose, corners of the mouth."""
    scores: Tensor
    """(K,) float32 in [0, 1]."""


class FaceCascade(nn.Module):
    """Finds faces and their five landmarks.

    Args:
        min_face_px: Side of the smallest faces; most of the time is spent on small ones.
        thresholds: Minimum scores of the three networks.

    Raises:
        DataError: facenet-pytorch is not installed.
    """

    def __init__(
        self,
        min_face_px: int = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    ) -> None:
        super().__init__()
        self.min_face_px = min_face_px
        self.thresholds = thresholds
        self.propose, self.refine, self.place = _networks()
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, images: Sequence[Tensor]) -> list[Faces]:
        """Find the faces of each image.

        Args:
            images: (3, H, W) uint8 or float in [0, 255], RGB, of any sizes, on one device.
        """
        if not images:
            return []
        pixels = [(image.float() - 127.5) / 128 for image in images]
        boxes = [self._proposals(image) for image in pixels]
        boxes = self._refined(pixels, boxes)
        return self._placed(pixels, boxes)

    def _proposals(self, image: Tensor) -> Tensor:
        """Return square boxes (K, 4) of one image, from all scales (stage 1)."""
        height, width = image.shape[-2:]
        # The image pyramid begins where the smallest face fills the receptive field.
        scale = _CELL / self.min_face_px
        found = [(image.new_empty(0, 4), image.new_empty(0), image.new_empty(0, 4))]
        while min(height, width) * scale >= _CELL:
            size_hw = (int(height * scale + 1), int(width * scale + 1))
            shifts, scores = self.propose(F.interpolate(image[None], size_hw, mode="area"))
            found.append(_cells(shifts[0], scores[0, 1], scale, self.thresholds[0]))
            scale *= _SCALE_STEP
        boxes, scores, shifts = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nms(boxes, scores, _IOU)
        sides = boxes[kept, 2:] - boxes[kept, :2]
        return _squares(boxes[kept] + shifts[kept] * sides.repeat(1, 2))

    def _refined(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Return the square boxes of each image that pass the second network (stage 2)."""
        crops, boxes = _crops(images, boxes, 24)
        outputs = _in_chunks(self.refine, crops, (4, 2))
        refined = []
        for candidates, (shifts, scores) in _passing(boxes, outputs, self.thresholds[1]):
            kept = nms(candidates, scores, _IOU)
            refined.append(_squares(_shifted(candidates[kept], shifts[kept])))
        return refined

    def _placed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Faces]:
        """Return the boxes that pass the third network, with their landmarks (stage 3)."""
        crops, boxes = _crops(images, boxes, 48)
        outputs = _in_chunks(self.place, crops, (4, 10, 2))
        faces = []
        for candidates, (shifts, points, scores) in _passing(boxes, outputs, self.thresholds[2]):
            # The network predicts all x and then all y, as fractions of the box.
            fractions = points.unflatten(1, (2, 5)).transpose(1, 2)
            sides = (candidates[:, 2:] - candidates[:, :2] + 1)[:, None]
            landmarks = candidates[:, None, :2] - 1 + fractions * sides
            placed = _shifted(candidates, shifts)
            kept = _nms_of_smaller(placed, scores, _IOU)
            faces.append(Faces(placed[kept], landmarks[kept], scores[kept]))
        return faces


class MTCNNRuntime:
    """The ``Runtime`` of MTCNN with the weights of facenet-pytorch (MIT license).

    Args:
        metadata: Of a ``FaceDetector``.
        device: "auto" takes an accelerator if there is one, else the CPU.
        min_face_px: See ``FaceCascade``.

    Raises:
        DataError: facenet-pytorch is not installed, there is no such device, or min_face_px is not
            positive.
    """

    def __init__(
        self, metadata: ModelMetadata, device: str = "auto", min_face_px: int = 20
    ) -> None:
        if min_face_px < 1:
            raise DataError(f"min_face_px={min_face_px}: must be at least 1")
        self.metadata = metadata
        self.device = choose_device(device)
        self.cascade = FaceCascade(min_face_px).to(self.device)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``; images of any size."""
        found = self.cascade(list(as_batch(images, self.device)))
        boxes, landmarks, scores = (
            pad_sequence(list(parts), batch_first=True) for parts in zip(*found, strict=True)
        )
        labels = pad_sequence(
            [torch.zeros(len(faces.scores), dtype=torch.int64) for faces in found],
            batch_first=True, padding_value=-1,
        )  # fmt: skip
        # Boxes count pixels from 1 and include the last one, so that only the edges on the left
        # and at the top are shifted.
        boxes[..., :2] -= 1
        named = {"boxes": boxes, "scores": scores, "labels": labels, "landmarks": landmarks}
        return {name: output.cpu().numpy() for name, output in named.items()}


def _passing(
    boxes: Sequence[Tensor], outputs: Sequence[Tensor], threshold: float
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield boxes and outputs of each image without those of a low score.

    The last output holds probabilities of no face and face.
    """
    counts = [len(candidates) for candidates in boxes]
    split = (output.split(counts) for output in outputs)
    for candidates, *parts in zip(boxes, *split, strict=True):
        scores = parts[-1][:, 1]
        passed = scores > threshold
        yield candidates[passed], [*(part[passed] for part in parts[:-1]), scores[passed]]


def _networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    try:
        import facenet_pytorch
        from facenet_pytorch.models import mtcnn
    except ImportError as error:
        raise DataError(
            "finding faces needs facenet-pytorch: pip install facenet-pytorch==2.5.3"
        ) from error
    folder = Path(cast(str, facenet_pytorch.__file__)).parent / "data"
    networks: Any = (mtcnn.PNet, mtcnn.RNet, mtcnn.ONet)
    networks = tuple(make(pretrained=False) for make in networks)
    for network, name in zip(networks, ("pnet", "rnet", "onet"), strict=True):
        network.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return networks


def _cells(
    shifts: Tensor, scores: Tensor, scale: float, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (K, 4), scores and shifts of the places of one scale that pass the threshold."""
    places = (scores >= threshold).nonzero()
    corners = places.flip(1) * _STRIDE + 1.0  # (row, column) to (x, y), counted from 1
    boxes = torch.cat([corners, corners + (_CELL - 1)], dim=1).div(scale).floor()
    passed = scores[places[:, 0], places[:, 1]]
    kept = nms(boxes, passed, _IOU_IN_SCALE)
    return boxes[kept], passed[kept], shifts[:, places[:, 0], places[:, 1]].T[kept]


def _shifted(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Apply the box regression: each edge moves by a fraction of the side."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + shifts * sides.repeat(1, 2)


def _squares(boxes: Tensor) -> Tensor:
    """Return boxes about the same centers with both sides as long as the longer one."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.amax(dim=1, keepdim=True)
    corner = boxes[:, :2] + sides * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], dim=1)


def _crops(
    images: Sequence[Tensor], boxes: Sequence[Tensor], side: int
) -> tuple[Tensor, list[Tensor]]:
    """Crop the boxes of each image: (N, 3, side, side), and the boxes that overlap their image."""
    crops, kept = [], []
    for image, candidates in zip(images, boxes, strict=True):
        height, width = image.shape[-2:]
        limits = torch.tensor([width, height, width, height], device=candidates.device)
        edges = candidates.trunc().long()
        edges = torch.cat([edges[:, :2].clamp_min(1) - 1, edges[:, 2:].minimum(limits[2:])], dim=1)
        visible = (edges[:, 2:] > edges[:, :2]).all(dim=1)
        crops += [
            F.adaptive_avg_pool2d(image[:, y0:y1, x0:x1], side)
            for x0, y0, x1, y1 in edges[visible].tolist()
        ]
        kept.append(candidates[visible])
    empty = images[0].new_empty(0, 3, side, side)
    return torch.stack(crops) if crops else empty, kept


def _in_chunks(
    network: Callable[[Tensor], tuple[Tensor, ...]], crops: Tensor, widths: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Run a network on any number of crops and return its outputs (N, width).

    Chunks are filled up to a power of two: torch keeps compiled code and buffers for each of a
    thousand batch sizes that it meets, which would take gigabytes.
    """
    if not len(crops):
        return tuple(crops.new_empty(0, width) for width in widths)
    parts = []
    for chunk in crops.split(_CHUNK):
        filled = chunk.new_zeros(1 << (len(chunk) - 1).bit_length(), *chunk.shape[1:])
        filled[: len(chunk)] = chunk
        parts.append([output[: len(chunk)] for output in network(filled)])
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def _nms_of_smaller(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Run NMS with the intersection over the smaller area; return the kept rows by falling score.

    Unlike with IoU, a box within another one is suppressed, however small it is.
    """
    order = scores.argsort(descending=True)
    ordered = boxes[order]
    areas = (ordered[:, 2:] - ordered[:, :2] + 1).prod(dim=1)
    low = torch.maximum(ordered[:, None, :2], ordered[None, :, :2])
    high = torch.minimum(ordered[:, None, 2:], ordered[None, :, 2:])
    shared = (high - low + 1).clamp_min(0).prod(dim=2)
    over = shared > threshold * torch.minimum(areas[:, None], areas[None])
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= ~over[row, row + 1 :]
    return order[alive]
