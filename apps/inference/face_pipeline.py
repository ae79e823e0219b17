"""Base of all face APIs: find faces, crop them, run a network on the crops, compare embeddings.

No torch until a model is loaded.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np

from ...datasets.errors import DataError
from ...heads.face_embedding.threshold import VERIFICATION_METADATA, Threshold
from .face_detection import (
    AnyDetector,
    FaceChoice,
    FindFaces,
    FoundFace,
    choose_faces,
    load_detector,
)
from .predictor import ImageLike, ImageSource, Predictor, as_images, prepare_ahead
from .runtime import Runtime

DEFAULT_BATCH_SIZE = 8

F = TypeVar("F")


class Verification(NamedTuple):
    """Whether two faces are of one person."""

    same: bool
    """Whether the similarity reaches the threshold."""
    similarity: float
    """Cosine of the two embeddings, in [-1, 1]."""
    threshold: float
    """Minimum similarity of one person."""
    far: float | None
    """Measured share of pairs of different people that reach the threshold; None if the caller gave
    the threshold."""
    measured: Threshold | None = None
    """The measured threshold with its errors by group, if the decision was made with it."""


class FacePredictor(Predictor[F]):
    """Finds faces, crops them by their landmarks and runs a network on the crops.

    A subclass defines how a face is cropped, and how a result is made of the network's outputs.

    Args:
        runtime: Runs the network; ``load`` and ``from_network`` make one.
        detector: Finds faces: an object such as a ``FaceDetector``, or what ``FaceDetector.load``
            takes, by default the public RetinaFace. It is loaded, and its weights are downloaded
            once, when the first image is searched; aligned faces need none.
        device: Where a detector that is loaded runs, see ``load``.
    """

    def __init__(
        self, runtime: Runtime, detector: AnyDetector = None, device: str = "auto"
    ) -> None:
        super().__init__(runtime)
        self._detector = detector
        self._device = device

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        detector: AnyDetector = None,
        trust: Iterable[str] = (),
    ) -> Self:
        """See ``Predictor``; ``size_hw`` is that of the crops, ``detector`` as for the class."""
        model = super().load(path, device, size_hw, trust)
        model._detector, model._device = detector, device
        return model

    def draw(self, pixels: np.ndarray, result: list[F]) -> np.ndarray:  # type: ignore[override]
        """See ``Predictor``: the boxes."""
        from ..drawing import draw_boxes

        faces: list[Any] = result
        return draw_boxes(pixels, [face.box for face in faces])

    @abstractmethod
    def crop(self, image: np.ndarray, landmarks: np.ndarray | None, box: np.ndarray) -> np.ndarray:
        """Return a face of an image as the network's input.

        Args:
            image: (H, W, 3) uint8 RGB.
            landmarks: (5, 2) float32, px; None if the image is a crop already.
            box: (4,) float32, xyxy in px.

        Returns:
            (h, w, 3) uint8 RGB.
        """

    @abstractmethod
    def face(self, found: FoundFace, outputs: Mapping[str, np.ndarray]) -> F:
        """Return the result of a detected face and of the network's outputs for its crop."""

    @property
    def detector(self) -> FindFaces:
        """The detector of faces, which is loaded here if it was not before.

        Raises:
            DataError: It cannot be loaded, see ``face_detection.load_detector``.
        """
        if not callable(self._detector):
            self._detector = load_detector(self._detector, self._device)
        return cast("FindFaces", self._detector)

    def __call__(  # type: ignore[override]
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        aligned: bool = False,
        faces: FaceChoice = "all",
    ) -> list[F] | list[list[F]]:
        """Find the faces of images and run the network on them. See ``Predictor``.

        Args:
            images: See ``Predictor``.
            batch_size: Number of images at once.
            aligned: Each image is one face, framed like this model's crops, so that none is
                searched for. Its box is the image, its landmarks are NaN and its score is 1.
            faces: Take all faces, the ``largest``, or the one nearest to the image's ``center``.

        Returns:
            The faces of a single image, the largest first; a list of such lists for anything else.
            An image without faces has an empty list.
        """
        sources, single = as_images(images)
        results: list[Any] = list(
            self.stream(sources, batch_size, aligned=aligned, faces=faces, strict=True)
        )
        return results[0] if single else results

    def stream(  # type: ignore[override]
        self,
        images: Iterable[ImageSource],
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        aligned: bool = False,
        faces: FaceChoice = "all",
        strict: bool = False,
    ) -> Iterator[list[F] | DataError]:
        """Find the faces of images one after the other. See ``Predictor``.

        Images are decoded one batch ahead; ``aligned`` and ``faces`` as in calling.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: must be at least 1")
        prepared = prepare_ahead(images, lambda image: image.read(), ahead=batch_size)
        while batch := list(islice(prepared, batch_size)):
            good = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
            found = _whole_images(good) if aligned else self._find(good, faces)
            results = iter(self._results(good, found, batch_size))
            for _, pixels in batch:
                if strict and isinstance(pixels, DataError):
                    raise pixels
                yield pixels if isinstance(pixels, DataError) else next(results)

    def _find(self, images: Sequence[np.ndarray], faces: FaceChoice) -> list[list[FoundFace]]:
        found = self.detector(images) if images else ()
        return [
            choose_faces(each, (image.shape[0], image.shape[1]), faces)
            for each, image in zip(found, images, strict=True)
        ]

    def _results(
        self, images: Sequence[np.ndarray], found: Sequence[list[FoundFace]], batch_size: int
    ) -> list[list[F]]:
        crops = [
            self.crop(image, landmarks if np.isfinite(landmarks).all() else None, box)
            for image, faces in zip(images, found, strict=True)
            for box, landmarks, _ in faces
        ]
        outputs = self._outputs(crops, batch_size)
        return [[self.face(face, next(outputs)) for face in faces] for faces in found]

    def _outputs(
        self, crops: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the network's outputs for each of any number of crops."""
        for start in range(0, len(crops), batch_size):
            batch = np.stack(crops[start : start + batch_size])
            outputs = self.runtime(batch)
            for row in range(len(batch)):
                yield {name: values[row] for name, values in outputs.items()}


def _whole_images(pixels: Sequence[np.ndarray]) -> list[list[FoundFace]]:
    """Return each image as one face without landmarks."""
    nowhere = np.full((5, 2), np.nan, np.float32)
    sizes = (image.shape[1::-1] for image in pixels)
    return [[(np.array([0, 0, *size], np.float32), nowhere, 1.0)] for size in sizes]


class Embedded(Protocol):
    """A face with its embedding."""

    @property
    def embedding(self) -> np.ndarray:
        """(D,) float32 of unit length."""
        ...


E = TypeVar("E", bound=Embedded)


class FaceComparer(FacePredictor[E]):
    """Finds faces with embeddings, and compares them."""

    @property
    def threshold(self) -> Threshold | None:
        """The threshold that was measured with this model, with its errors; None if none was.

        Raises:
            DataError: The model's file holds something else in its place.
        """
        try:
            return Threshold.from_metadata(self.runtime.metadata.details.get(VERIFICATION_METADATA))
        except ValueError as error:
            raise DataError(
                f"{error}, in this model's metadata. `mobilevision verify` with --store measures "
                "the threshold of a checkpoint again."
            ) from error

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        black = np.zeros((1, *self.size_hw, 3), np.uint8)
        return self.runtime(black)["embeddings"].shape[1]

    def verify(
        self,
        a: ImageLike | Embedded,
        b: ImageLike | Embedded,
        threshold: float | None = None,
        faces: Literal["largest", "center"] = "largest",
    ) -> Verification:
        """Decide whether two faces are of one person.

        Args:
            a: An image, of which one face is taken; a face that was found; or an embedding (D,).
            b: Another one.
            threshold: Minimum similarity of one person; by default the one that was measured with
                this model.
            faces: Take the ``largest`` face of an image, or the one nearest to its ``center``.

        Returns:
            The decision, and the measured share of pairs of different people that are taken for
            one person, also for each group where that was measured. The share is an estimate: it
            differs for other kinds of images, and is uncertain if few people were measured.

        Raises:
            DataError: An image cannot be read or has no face, or there is no measured threshold.
        """
        measured = self.threshold if threshold is None else None
        if threshold is None and measured is None:
            raise DataError(
                "this model has no measured threshold. Give one, such as threshold=0.4; "
                "`mobilevision verify` with --store measures it and stores it in the checkpoint; "
                "so does each validation in training."
            )
        limit = measured.similarity if measured else cast(float, threshold)
        rows = (self._embedding(a, "first", faces), self._embedding(b, "second", faces))
        alike = float(similarity(*rows))
        far = measured.far if measured else None
        return Verification(alike >= limit, alike, limit, far, measured)

    def _embedding(self, value: Any, place: str, faces: FaceChoice) -> np.ndarray:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return value
        if (known := getattr(value, "embedding", None)) is not None:
            return known
        found = cast("list[E]", self(value, faces=faces))
        if not found:
            name = value if isinstance(value, str | Path) else f"the {place} image"
            raise DataError(f"{name}: no face found, so there is nothing to compare")
        return found[0].embedding


def measured_details(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a checkpoint's metadata that holds the measured threshold."""
    measured = stored.get(VERIFICATION_METADATA)
    return {} if measured is None else {VERIFICATION_METADATA: measured}


def given_details(threshold: Threshold | None) -> dict[str, Any]:
    """Return the same entry for a threshold of the caller."""
    if threshold is None:
        return {}
    return {VERIFICATION_METADATA: threshold.to_metadata()}


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of embeddings, in [-1, 1]; 1 is the same direction.

    Args:
        a: (..., D) floats of any length but zero.
        b: (..., D), of a shape that broadcasts with that of ``a``: (D,) with (N, D) is one against
            many, (N, 1, D) with (M, D) is all against all.

    Returns:
        (...) float32.

    Raises:
        DataError: The embeddings are not of one dimension, or one has length zero or is not finite.
    """
    first, second = (np.asarray(value, dtype=np.float64) for value in (a, b))
    if first.ndim == 0 or second.ndim == 0 or first.shape[-1] != second.shape[-1]:
        raise DataError(
            f"embeddings of shapes {first.shape} and {second.shape}: the last sizes must be equal. "
            "Embeddings of different models cannot be compared."
        )
    lengths = [np.linalg.norm(value, axis=-1) for value in (first, second)]
    for length in lengths:
        if not (np.isfinite(length) & (length > 0)).all():
            raise DataError("an embedding has length zero or is not finite; compute it again")
    cosine = (first * second).sum(axis=-1) / (lengths[0] * lengths[1])
    return cosine.clip(-1, 1).astype(np.float32)
