"""Pictures of any kind in, faces out: what the Python APIs of faces share.

Free of torch until a model is loaded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, TypeVar

import numpy as np

from ...datasets.errors import DataError
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures, prepare_ahead
from .finding import FaceFinder, FacesFound

DEFAULT_BATCH_SIZE = 8

F = TypeVar("F")


class FaceReader(ABC, Generic[F]):
    """Finds faces, crops them by their landmarks and asks a network about the crops.

    A subclass says how a face is cropped, what the network says of crops, and what is made of that.

    Args:
        finder: What finds faces; by default MTCNN, made when it is first needed, so that crops do
            without it.
    """

    def __init__(self, finder: FaceFinder | None = None) -> None:
        self._finder = finder

    @abstractmethod
    def crop(self, picture: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """Return a face of a picture as the network sees it.

        Args:
            picture: (H, W, 3) uint8 RGB.
            landmarks: (5, 2) float32, px; None where the picture is a crop already.

        Returns:
            (h, w, 3) uint8 RGB.
        """

    @abstractmethod
    def say(self, crops: np.ndarray) -> Iterable[Any]:
        """Return what the network says of each of (B, h, w, 3) uint8 RGB."""

    @abstractmethod
    def face(self, box: np.ndarray, landmarks: np.ndarray, score: float, said: Any) -> F:
        """Make a result of a found face and of what the network says of it."""

    @property
    def finder(self) -> FaceFinder:
        """What finds faces.

        Raises:
            DataError: It is MTCNN, and facenet-pytorch is not installed.
        """
        if self._finder is None:
            from .finding import MTCNNFinder

            self._finder = MTCNNFinder()
        return self._finder

    def __call__(
        self,
        images: PictureLike | Iterable[PictureLike],
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        aligned: bool = False,
    ) -> list[F] | list[list[F]]:
        """Find the faces of pictures and ask the network about them.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or any
                iterable of them, of mixed kinds and sizes. Grey pictures, alpha and EXIF rotation
                are taken care of; see ``MemoryPicture``.
            batch_size: Pictures that are looked at together.
            aligned: Each picture is one face, framed as this model's crops are; none is looked
                for. Its box is the picture, its landmarks are NaN and its score is 1.

        Returns:
            The faces of a single picture, the largest first; for anything else a list of such
            lists. A picture without faces has an empty list.

        Raises:
            DataError: A picture cannot be read; use ``stream`` to go on with the others. Or an
                option is out of its range.
        """
        pictures, single = as_pictures(images)
        results = all_or_raise(self.stream(pictures, batch_size, aligned=aligned))
        return results[0] if single else results

    def stream(
        self,
        pictures: Iterable[Picture],
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        aligned: bool = False,
    ) -> Iterator[list[F] | DataError]:
        """Find the faces of any number of pictures, holding only a few of them.

        Pictures are decoded in background threads, ahead of the networks by one batch.

        Args:
            pictures: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            batch_size: As for calling it.
            aligned: As for calling it.

        Yields:
            For each picture in order its faces, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: must be at least 1")
        find: Callable[[Sequence[np.ndarray]], list[FacesFound]]
        find = _whole_pictures if aligned else self.finder
        prepared = prepare_ahead(pictures, lambda picture: picture.read(), ahead=batch_size)
        while batch := list(islice(prepared, batch_size)):
            good = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
            found = find(good) if good else []
            rows = iter(self._results(good, found, batch_size))
            for _, pixels in batch:
                yield pixels if isinstance(pixels, DataError) else next(rows)

    def _results(
        self, pictures: Sequence[np.ndarray], found: Sequence[FacesFound], batch_size: int
    ) -> list[list[F]]:
        crops = [
            self.crop(picture, landmarks if np.isfinite(landmarks).all() else None)
            for picture, faces in zip(pictures, found, strict=True)
            for landmarks in faces.landmarks
        ]
        said = chain.from_iterable(
            self.say(np.stack(crops[start : start + batch_size]))
            for start in range(0, len(crops), batch_size)
        )
        return [
            [self.face(box, landmarks, float(score), next(said))
             for box, landmarks, score in zip(*faces, strict=True)]
            for faces in found
        ]  # fmt: skip


def _whole_pictures(pixels: Sequence[np.ndarray]) -> list[FacesFound]:
    """Each picture is a face whose landmarks nobody has looked for."""
    return [
        FacesFound(
            np.array([[0, 0, picture.shape[1], picture.shape[0]]], np.float32),
            np.full((1, 5, 2), np.nan, np.float32),
            np.ones(1, np.float32),
        )
        for picture in pixels
    ]
