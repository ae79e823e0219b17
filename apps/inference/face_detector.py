"""Faces in images: boxes, five landmarks and scores, whatever the images are.

Used by everything that takes images with faces: embeddings, attributes, the preparation of data.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import cv2
import numpy as np

from ...datasets.errors import DataError

if TYPE_CHECKING:
    from .mtcnn import Faces

DEFAULT_FACE_SCORE = 0.9
"""The least score of a face that is used."""


class FacesFound(NamedTuple):
    """The K faces of one image, the largest first. K may be 0."""

    boxes: np.ndarray
    """(K, 4) float32, xyxy in px of the image; within the image."""
    landmarks: np.ndarray
    """(K, 5, 2) float32, x and y in px: eyes, nose, corners of the mouth, as seen in the image
    left before right, as ``datasets.faces.alignment.align_face`` takes them."""
    scores: np.ndarray
    """(K,) float32 in [0, 1]."""


class FaceFinder(Protocol):
    """Finds the faces of images; ``MTCNNFinder`` is one."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[FacesFound]:
        """Return for each image (H, W, 3) uint8 RGB its faces, in order."""
        ...


class MTCNNFinder:
    """MTCNN with the weights that come with facenet-pytorch (MIT license).

    Images of different sizes, with and without faces, and none at all go together. A result does
    not depend on what else is in the batch, up to the rounding of sums.

    Args:
        min_score: Faces below it are left out.
        min_face_px: Side of the smallest faces, in px of the image as it is looked at, which is
            the image itself unless ``longest_px`` makes it smaller.
        longest_px: Larger images are reduced to this longer side to look for faces, which bounds
            time and memory. Landmarks are in the whole image's pixels.
        device: "auto" takes an accelerator where there is one, else the CPU.

    Raises:
        DataError: facenet-pytorch is not installed, or there is no such device.
    """

    def __init__(
        self,
        min_score: float = DEFAULT_FACE_SCORE,
        min_face_px: int = 20,
        longest_px: int = 1024,
        device: str = "auto",
    ) -> None:
        from .mtcnn import FaceCascade
        from .torch import choose_device

        if not 0 <= min_score <= 1 or min_face_px < 1 or longest_px < 1:
            raise DataError(
                f"min_score={min_score}, min_face_px={min_face_px}, longest_px={longest_px}: the "
                "first must lie from 0 to 1, the others be at least 1."
            )
        self.min_score = min_score
        self.longest_px = longest_px
        self.device = choose_device(device)
        self.cascade = FaceCascade(min_face_px).to(self.device)

    def __call__(self, images: Sequence[np.ndarray]) -> list[FacesFound]:
        """See ``FaceFinder``."""
        import torch

        looked_at = [_reduced(image, self.longest_px) for image in images]
        tensors = [
            torch.from_numpy(np.require(image, requirements=["C", "W"]))
            .to(self.device)
            .permute(2, 0, 1)
            for image in looked_at
        ]
        return [
            self._result(faces, image, small)
            for faces, image, small in zip(self.cascade(tensors), images, looked_at, strict=True)
        ]

    def _result(self, faces: "Faces", image: np.ndarray, small: np.ndarray) -> FacesFound:
        boxes, landmarks, scores = (part.cpu().numpy() for part in faces)
        limits = np.array(image.shape[1::-1], dtype=np.float32)
        scale = limits / np.array(small.shape[1::-1], dtype=np.float32)
        # Boxes are counted from 1 and have their last pixel inside; here they have edges.
        edges = boxes.reshape(-1, 2, 2) - np.array([[1], [0]], dtype=np.float32)
        corners = (edges * scale).clip(0, limits)
        points = (landmarks + 0.5) * scale - 0.5
        sides = corners[:, 1] - corners[:, 0]
        good = (scores >= self.min_score) & (sides > 0).all(axis=1)
        good &= np.isfinite(points).all(axis=(1, 2))
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(-sides[rows].prod(axis=1), kind="stable")]
        return FacesFound(
            corners[rows].reshape(-1, 4).astype(np.float32),
            points[rows].astype(np.float32),
            scores[rows].astype(np.float32),
        )


def _reduced(image: np.ndarray, longest_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
