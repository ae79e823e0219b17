"""Face detection in images of any size: boxes, five landmarks and scores.

Used by whatever takes images with faces: embeddings, attributes, the preparation of data.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import cv2
import numpy as np

from ...datasets.errors import DataError
from .runtime import whole_install

if TYPE_CHECKING:
    from .mtcnn import Faces


class FacesFound(NamedTuple):
    """The K faces of one image, the largest first. K may be 0."""

    boxes: np.ndarray
    """(K, 4) float32, xyxy in px of the image; within the image."""
    landmarks: np.ndarray
    """(K, 5, 2) float32, x and y in px: eyes, nose, corners of the mouth, the left one in the image
    first, as ``datasets.faces.alignment.align_face`` takes them."""
    scores: np.ndarray
    """(K,) float32 in [0, 1]."""


FoundFace = tuple[np.ndarray, np.ndarray, float]
"""Box (4,), landmarks (5, 2) and score of a face, as in ``FacesFound``."""


class FaceFinder(Protocol):
    """Finds the faces of images, such as ``MTCNNFinder``."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[FacesFound]:
        """Return the faces of each image (H, W, 3) uint8 RGB, in order."""
        ...


class MTCNNFinder:
    """MTCNN with the weights of facenet-pytorch (MIT license).

    A batch may hold images of different sizes, with and without faces, or none at all. The faces of
    an image do not depend on the other images, up to the rounding of sums.

    Args:
        min_score: Faces below it are left out.
        min_face_px: Side of the smallest faces, in px of the image after ``longest_px`` is applied.
        longest_px: Larger images are reduced to this longer side before the search, which bounds
            time and memory. Boxes and landmarks are in pixels of the original image.
        device: "auto" takes an accelerator if there is one, else the CPU.

    Raises:
        DataError: facenet-pytorch is not installed, or there is no such device.
    """

    def __init__(
        self,
        min_score: float = 0.9,
        min_face_px: int = 20,
        longest_px: int = 1024,
        device: str = "auto",
    ) -> None:
        try:
            from .mtcnn import FaceCascade
            from .torch import choose_device
        except ModuleNotFoundError as error:
            raise whole_install("finding faces (aligned ones need no finding)", error) from error

        if not 0 <= min_score <= 1 or min_face_px < 1 or longest_px < 1:
            raise DataError(
                f"min_score={min_score}, min_face_px={min_face_px}, longest_px={longest_px}: the "
                "first must be from 0 to 1, the others at least 1."
            )
        self.min_score = min_score
        self.longest_px = longest_px
        self.device = choose_device(device)
        self.cascade = FaceCascade(min_face_px).to(self.device)

    def __call__(self, images: Sequence[np.ndarray]) -> list[FacesFound]:
        """See ``FaceFinder``."""
        import torch

        reduced = [_reduced(image, self.longest_px) for image in images]
        tensors = [
            torch.from_numpy(np.require(image, requirements=["C", "W"]))
            .to(self.device)
            .permute(2, 0, 1)
            for image in reduced
        ]
        return [
            self._result(faces, image, small)
            for faces, image, small in zip(self.cascade(tensors), images, reduced, strict=True)
        ]

    def _result(self, faces: "Faces", image: np.ndarray, small: np.ndarray) -> FacesFound:
        boxes, landmarks, scores = (part.cpu().numpy() for part in faces)
        limits = np.array(image.shape[1::-1], dtype=np.float32)
        scale = limits / np.array(small.shape[1::-1], dtype=np.float32)
        # MTCNN counts pixels from 1 and includes the last one, so that only the edges on the left
        # and at the top are shifted.
        edges = boxes.reshape(-1, 2, 2) - np.array([[1], [0]], dtype=np.float32)
        corners = (edges * scale).clip(0, limits)
        # Landmarks count from the center of the first pixel, edges from its corner.
        points = (landmarks + 0.5) * scale - 0.5
        sides = corners[:, 1] - corners[:, 0]
        good = (scores >= self.min_score) & (sides > 0).all(axis=1)
        good &= np.isfinite(points).all(axis=(1, 2))
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(-sides[rows].prod(axis=1), kind="stable")]
        fields = corners[rows].reshape(-1, 4), points[rows], scores[rows]
        return FacesFound(*(field.astype(np.float32) for field in fields))


def _reduced(image: np.ndarray, longest_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
