"""What a student learns faces from; the networks are in ``external_teachers.py``."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from ...backbone.errors import WeightsError
from ...datasets.faces.views import FaceViews
from ...datasets.images import stretch
from ...datasets.types import FaceBatch
from .far_frr import normalised


class EmbeddingTeacher(ABC):
    """Says the embedding of each face of a batch: ``TableTeacher``, or a ``FaceTeacher``."""

    @abstractmethod
    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """Read what there is to read, when training starts.

        Args:
            dimension: D of the student.
            device: Where the student is.
            views: What the training data draws; None where that is not known.

        Raises:
            WeightsError: It cannot be read, or does not fit the student or the data.
        """

    @abstractmethod
    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length."""


class FaceTeacher(EmbeddingTeacher):
    """Embeds aligned faces; a subclass says how it is opened and run.

    As the teacher of a training it looks at each batch, at the very pictures of the student; much
    slower than a ``TableTeacher``, but never asked the same twice.

    Args:
        size: Side in px of the faces that it wants.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._opened = False

    @abstractmethod
    def open(self) -> None:
        """Read the network; called once, before the first faces.

        Raises:
            WeightsError: It cannot be read, or its library is absent.
        """

    @abstractmethod
    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return (B, D) float32 of (B, size, size, 3) uint8 RGB, contiguous; of any length."""

    def embed(self, images: np.ndarray | Tensor) -> np.ndarray:
        """Embed aligned faces.

        Args:
            images: (B, H, W, 3) or (B, 3, H, W) uint8, RGB; resized where H or W is not ``size``.

        Returns:
            (B, D) float32 of unit length; an embedding of length zero stays zero.

        Raises:
            WeightsError: The network cannot be read, or its library is absent.
        """
        if not self._opened:
            self.open()
            self._opened = True
        return normalised(self.infer(self._prepared(images)))

    def _prepared(self, images: np.ndarray | Tensor) -> np.ndarray:
        pixels = images.numpy(force=True) if isinstance(images, Tensor) else np.asarray(images)
        if (
            pixels.ndim != 4
            or pixels.dtype != np.uint8
            or 3 not in (pixels.shape[1], pixels.shape[3])
        ):
            raise ValueError(f"wanted are B uint8 pictures, not {pixels.dtype} {pixels.shape}")
        if pixels.shape[3] != 3:
            pixels = pixels.transpose(0, 2, 3, 1)
        if pixels.shape[1:3] != (self.size, self.size):
            resized = [
                stretch(np.ascontiguousarray(face), (self.size, self.size)) for face in pixels
            ]
            pixels = np.stack(resized) if resized else np.empty((0, self.size, self.size, 3), "u1")
        return np.ascontiguousarray(pixels)

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:  # noqa: ARG002
        """See whether it gives as many numbers as the student, with one grey face.

        Raises:
            WeightsError: It cannot be read or does not fit.
        """
        grey = np.full((1, self.size, self.size, 3), 127, np.uint8)
        check_dimension(type(self).__name__, self.embed(grey).shape[1], dimension)

    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length, for the pictures of a batch."""
        return torch.from_numpy(self.embed(batch.images)).to(batch.images.device)


def check_dimension(name: str, theirs: int, ours: int) -> None:
    """Insist on as many numbers from a teacher as from its student.

    Raises:
        WeightsError: They differ.
    """
    if theirs != ours:
        raise WeightsError(
            f"{name}: gives {theirs} numbers for a face, and the student {ours}. Set the network's "
            f"dimension to {theirs}."
        )
