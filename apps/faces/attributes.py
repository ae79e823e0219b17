"""Face attributes from Python: pictures of any kind in, faces with attributes out.

    from mobilevision.apps import FaceAttributes

    describe = FaceAttributes.load("attributes.ckpt")
    for face in describe("group.jpg"):
        face.box, face.probabilities["Smiling"], face.present["Smiling"], face.names

Free of torch until a model is loaded.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...datasets.errors import DataError
from ...datasets.face_crops import crop_face
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures, prepare_ahead
from .finding import FaceFinder, FacesFound

if TYPE_CHECKING:
    from torch import nn

    from .attribute_engine import AttributeEngine

DEFAULT_BATCH_SIZE = 8

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FaceDescription:
    """One face and its attributes.

    Attributes:
        box: (4,) float32, xyxy in px of the original picture, EXIF rotation applied.
        landmarks: (5, 2) float32, x and y in px: eyes, nose, corners of the mouth, as seen in the
            picture left before right; NaN where the picture was a crop already.
        score: Of the detection, in [0, 1]; 1 where the picture was a crop already.
        values: (A,) float32, the probabilities in the order of ``thresholds``.
        thresholds: Attribute -> the probability from which on it is said to be there.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    values: np.ndarray
    thresholds: dict[str, float]

    @property
    def probabilities(self) -> dict[str, float]:
        """Attribute -> its probability, in [0, 1]."""
        return dict(zip(self.thresholds, self.values.tolist(), strict=True))

    @property
    def present(self) -> dict[str, bool]:
        """Attribute -> whether its probability reaches the stored threshold."""
        reached = self.values >= np.array(list(self.thresholds.values()), np.float32)
        return dict(zip(self.thresholds, reached.tolist(), strict=True))

    @property
    def names(self) -> list[str]:
        """The attributes that are said to be there."""
        return [name for name, there in self.present.items() if there]

    def __repr__(self) -> str:
        return f"FaceDescription({', '.join(self.names) or 'nothing'})"


class FaceAttributes:
    """Finds faces, crops them by their landmarks and says their attributes.

    Args:
        engine: What runs the network; ``FaceAttributes.load`` and ``from_network`` make one.
        finder: What finds faces; by default MTCNN, made when it is first needed, so that crops do
            without it.
    """

    def __init__(self, engine: "AttributeEngine", finder: FaceFinder | None = None) -> None:
        self.engine = engine
        self._finder = finder

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        finder: FaceFinder | None = None,
    ) -> "FaceAttributes":
        """Load a checkpoint of ``AttributeTask``.

        Args:
            path: The file.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size_hw: Height and width of the crops; None takes those of training.
            finder: As for the class.

        Raises:
            WeightsError: No such file, or no attribute network in it; the message says what to do.
            DataError: There is no such device.
        """
        from .attribute_engine import load_attribute_engine

        return cls(load_attribute_engine(path, device, size_hw), finder)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        thresholds: dict[str, float],
        size_hw: tuple[int, int] = (160, 128),
        device: str = "auto",
        finder: FaceFinder | None = None,
    ) -> "FaceAttributes":
        """Make it of a network that was built in Python; the network is copied.

        Args:
            network: (B, 3, H, W) uint8 RGB to ``AttributeOutput``, such as ``AttributeNetwork``.
            thresholds: Attribute -> the probability from which on it is said to be there, in the
                network's order.
            size_hw: Height and width of the crops, as in training.
            device: As for ``load``.
            finder: As for the class.

        Raises:
            DataError: There is no such device.
        """
        from .attribute_engine import TorchAttributeEngine

        return cls(TorchAttributeEngine(network, thresholds, size_hw, device), finder)

    @property
    def attributes(self) -> list[str]:
        """Their names, in the network's order."""
        return list(self.engine.thresholds)

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
        aligned: bool = False,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[FaceDescription] | list[list[FaceDescription]]:
        """Find and describe the faces of pictures.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or any
                iterable of them, of mixed kinds and sizes. Grey pictures, alpha and EXIF rotation
                are taken care of; see ``MemoryPicture``.
            aligned: Each picture is one face, framed as CelebA's aligned pictures are; none is
                looked for.
            batch_size: Pictures that are looked at together.

        Returns:
            The faces of a single picture, the largest first; for anything else a list of such
            lists. A picture without faces has an empty list.

        Raises:
            DataError: A picture cannot be read; use ``stream`` to go on with the others. Or an
                option is out of its range.
        """
        pictures, single = as_pictures(images)
        results = all_or_raise(self.stream(pictures, aligned, batch_size))
        return results[0] if single else results

    def stream(
        self,
        pictures: Iterable[Picture],
        aligned: bool = False,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Iterator[list[FaceDescription] | DataError]:
        """Find and describe the faces of any number of pictures, holding only a few of them.

        Pictures are decoded in background threads, ahead of the networks by one batch.

        Args:
            pictures: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            aligned: As for calling it.
            batch_size: As for calling it.

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
            rows = iter(self._describe(good, find(good), batch_size) if good else [])
            for _, pixels in batch:
                yield pixels if isinstance(pixels, DataError) else next(rows)

    def _describe(
        self, pixels: Sequence[np.ndarray], found: Sequence[FacesFound], batch_size: int
    ) -> list[list[FaceDescription]]:
        crops = [
            crop_face(picture, landmarks, self.engine.size_hw)[0]
            for picture, faces in zip(pixels, found, strict=True)
            for landmarks in faces.landmarks
        ]
        said = iter(
            row
            for start in range(0, len(crops), batch_size)
            for row in self.engine(np.stack(crops[start : start + batch_size]))
        )
        thresholds = self.engine.thresholds
        return [
            [FaceDescription(box, landmarks, float(score), next(said), thresholds)
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
