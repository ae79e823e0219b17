"""Find faces, crop them, run a network on the crops, compare embeddings: what all face APIs share.

Free of torch until a model is loaded.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np

from ...datasets.errors import DataError
from ...heads.face_embedding.verification import VERIFICATION_METADATA
from .face_detector import FaceFinder, FacesFound
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
    """Least similarity of one person."""
    far: float | None
    """Share of pairs of different people that reach the threshold, as measured with it; None where
    the threshold was given by the caller."""


class Threshold(NamedTuple):
    """Where the line between one person and two is drawn, and how it was measured."""

    similarity: float
    """Least cosine of one person."""
    far: float
    """Share of pairs of different people that reached it."""


class FacePredictor(Predictor[F]):
    """Finds faces, crops them by their landmarks and runs a network on the crops.

    A subclass says how a face is cropped and what is made of the network's outputs.

    Args:
        runtime: What runs the network; ``load`` makes one.
        finder: What finds faces; by default MTCNN, made when it is first needed, so that crops do
            without it.
    """

    def __init__(self, runtime: Runtime, finder: FaceFinder | None = None) -> None:
        super().__init__(runtime)
        self._finder = finder

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        finder: FaceFinder | None = None,
        trust: Iterable[str] = (),
    ) -> Self:
        """Load a checkpoint, or what ``mobilevision export`` made of one.

        Args:
            path: The file.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size_hw: Height and width of the crops; None takes those of training.
            finder: As for the class.
            trust: Packages whose classes a checkpoint may name besides those of this package;
                never for a file of a stranger.

        Raises:
            DataError: No such file or device, or no model of this job in it; the message says what
                to do.
        """
        model = super().load(path, device, size_hw, trust)
        model._finder = finder
        return model

    @abstractmethod
    def crop(self, image: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """Return a face of an image as the network sees it.

        Args:
            image: (H, W, 3) uint8 RGB.
            landmarks: (5, 2) float32, px; None where the image is a crop already.

        Returns:
            (h, w, 3) uint8 RGB.
        """

    @abstractmethod
    def face(
        self,
        box: np.ndarray,
        landmarks: np.ndarray,
        score: float,
        outputs: Mapping[str, np.ndarray],
    ) -> F:
        """Make a result of a found face and of the network's outputs for its crop."""

    @property
    def finder(self) -> FaceFinder:
        """What finds faces.

        Raises:
            DataError: It is MTCNN, and facenet-pytorch is not installed.
        """
        if self._finder is None:
            from .face_detector import MTCNNFinder

            self._finder = MTCNNFinder()
        return self._finder

    def __call__(  # type: ignore[override]
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        aligned: bool = False,
    ) -> list[F] | list[list[F]]:
        """Find the faces of images and ask the network about them.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or any
                iterable of them, of mixed kinds and sizes. Gray images, alpha and EXIF rotation
                are taken care of; see ``MemoryImage``.
            batch_size: Images that are looked at together.
            aligned: Each image is one face, framed as this model's crops are; none is looked
                for. Its box is the image, its landmarks are NaN and its score is 1.

        Returns:
            The faces of a single image, the largest first; for anything else a list of such
            lists. An image without faces has an empty list.

        Raises:
            DataError: An image cannot be read; use ``stream`` to go on with the others. Or an
                option is out of its range.
        """
        sources, single = as_images(images)
        results: list[Any] = list(self.stream(sources, batch_size, aligned=aligned, strict=True))
        return results[0] if single else results

    def stream(  # type: ignore[override]
        self,
        images: Iterable[ImageSource],
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        aligned: bool = False,
        strict: bool = False,
    ) -> Iterator[list[F] | DataError]:
        """Find the faces of any number of images, holding only a few of them.

        Images are decoded in background threads, ahead of the networks by one batch.

        Args:
            images: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            batch_size: As for calling it.
            aligned: As for calling it.
            strict: Whether an image that cannot be read raises its error, in place of yielding it.

        Yields:
            For each image in order its faces, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: must be at least 1")
        find: Callable[[Sequence[np.ndarray]], list[FacesFound]]
        find = _whole_images if aligned else self.finder
        prepared = prepare_ahead(images, lambda image: image.read(), ahead=batch_size)
        while batch := list(islice(prepared, batch_size)):
            good = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
            found = find(good) if good else []
            rows = iter(self._results(good, found, batch_size))
            for _, pixels in batch:
                if strict and isinstance(pixels, DataError):
                    raise pixels
                yield pixels if isinstance(pixels, DataError) else next(rows)

    def _results(
        self, images: Sequence[np.ndarray], found: Sequence[FacesFound], batch_size: int
    ) -> list[list[F]]:
        crops = [
            self.crop(image, landmarks if np.isfinite(landmarks).all() else None)
            for image, faces in zip(images, found, strict=True)
            for landmarks in faces.landmarks
        ]
        outputs = self._rows(crops, batch_size)
        return [
            [self.face(box, landmarks, float(score), next(outputs))
             for box, landmarks, score in zip(*faces, strict=True)]
            for faces in found
        ]  # fmt: skip

    def _rows(
        self, crops: Sequence[np.ndarray], batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Run the network on any number of crops; its outputs for each."""
        for start in range(0, len(crops), batch_size):
            batch = np.stack(crops[start : start + batch_size])
            outputs = self.runtime(batch)
            for row in range(len(batch)):
                yield {name: values[row] for name, values in outputs.items()}


def _whole_images(pixels: Sequence[np.ndarray]) -> list[FacesFound]:
    """Each image is a face whose landmarks nobody has looked for."""
    return [
        FacesFound(
            np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32),
            np.full((1, 5, 2), np.nan, np.float32),
            np.ones(1, np.float32),
        )
        for image in pixels
    ]


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
        """The threshold that was measured with this model; None where none was."""
        return measured_threshold(self.runtime.metadata.details)

    def verify(
        self,
        a: ImageLike | Embedded,
        b: ImageLike | Embedded,
        threshold: float | None = None,
    ) -> Verification:
        """Say whether two faces are of one person.

        Args:
            a: An image, of which the largest face is taken; a face that was found; or an
                embedding (D,).
            b: Another one.
            threshold: Least similarity of one person; by default the one that was measured with
                this model.

        Returns:
            The answer, and the measured share of pairs of different people for which it would be
            "same" by mistake. Where few people were measured, or the images are of another kind,
            that share is another one.

        Raises:
            DataError: An image cannot be read or has no face, or nobody measured the threshold.
        """
        measured = self.threshold if threshold is None else None
        if threshold is None and measured is None:
            raise DataError(
                "this model has no measured threshold. Give one, such as threshold=0.4; "
                "`mobilevision verify` with --store measures it and puts it into the checkpoint; "
                "each validation of a training does so, too."
            )
        limit = measured.similarity if measured else cast(float, threshold)
        alike = float(similarity(self._embedding(a, "first"), self._embedding(b, "second")))
        return Verification(alike >= limit, alike, limit, measured.far if measured else None)

    def _embedding(self, value: Any, place: str) -> np.ndarray:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return value
        known = getattr(value, "embedding", None)
        if known is not None:
            return known
        faces = cast("list[E]", self(value))
        if not faces:
            name = value if isinstance(value, str | Path) else f"the {place} image"
            raise DataError(f"{name}: no face found, so there is nothing to compare")
        return faces[0].embedding


def measured_details(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's metadata that says how two faces are told apart."""
    measured = stored.get(VERIFICATION_METADATA)
    return {} if measured is None else {VERIFICATION_METADATA: measured}


def given_details(threshold: Threshold | None) -> dict[str, Any]:
    """The same for a threshold that a caller has."""
    if threshold is None:
        return {}
    return {VERIFICATION_METADATA: {"threshold": threshold.similarity, "far": threshold.far}}


def measured_threshold(metadata: Mapping[str, Any]) -> Threshold | None:
    """Return the threshold in metadata of a checkpoint or a file; None where it is not measured."""
    measured = metadata.get(VERIFICATION_METADATA) or {}
    if measured.get("threshold") is None or measured.get("far") is None:
        return None
    return Threshold(float(measured["threshold"]), float(measured["far"]))


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of embeddings, in [-1, 1]; 1 is the same direction.

    Args:
        a: (..., D) floats of any length but zero.
        b: (..., D), of a shape that broadcasts with the first: (D,) with (N, D) is one against
            many, (N, 1, D) with (M, D) is all against all.

    Returns:
        (...) float32.

    Raises:
        DataError: The embeddings are not of one dimension, or one has length zero or is not finite.
    """
    first, second = (np.asarray(value, dtype=np.float64) for value in (a, b))
    if first.ndim == 0 or second.ndim == 0 or first.shape[-1] != second.shape[-1]:
        raise DataError(
            f"embeddings of shapes {first.shape} and {second.shape}: the last sizes have to be the "
            "same. Embeddings of different models cannot be compared."
        )
    lengths = [np.linalg.norm(value, axis=-1) for value in (first, second)]
    for length in lengths:
        if not (np.isfinite(length) & (length > 0)).all():
            raise DataError("an embedding has length zero or is not finite: make it anew")
    cosine = (first * second).sum(axis=-1) / (lengths[0] * lengths[1])
    return cosine.clip(-1, 1).astype(np.float32)
