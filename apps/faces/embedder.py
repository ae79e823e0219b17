"""Face embeddings from Python: pictures of any kind in, faces with embeddings out.

from mobilevision.apps import FaceEmbedder

embedder = FaceEmbedder.load("face.ckpt")
for face in embedder("group.jpg"):
    face.box, face.landmarks, face.score, face.embedding
embedder.verify("a.jpg", "b.jpg").same
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ...datasets.alignment import align_face
from ...datasets.errors import DataError
from ...datasets.images import stretch
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures, prepare_ahead
from .finding import FaceFinder, FacesFound
from .results import Face, Threshold, Verification, similarity

if TYPE_CHECKING:
    from torch import nn

    from .embedding_engines import EmbeddingEngine

DEFAULT_BATCH_SIZE = 8

T = TypeVar("T")


class FaceEmbedder:
    """Finds faces, aligns them by their landmarks and embeds them.

    Args:
        engine: What runs the network; ``FaceEmbedder.load`` and ``from_network`` make one.
        finder: What finds faces; by default MTCNN, made when it is first needed, so that
            ``embed_aligned`` does without it.
    """

    def __init__(self, engine: "EmbeddingEngine", finder: FaceFinder | None = None) -> None:
        self.engine = engine
        self._finder = finder

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str = "auto",
        size: int | None = None,
        finder: FaceFinder | None = None,
    ) -> "FaceEmbedder":
        """Load a checkpoint of ``FaceEmbeddingTask``, or another people's face network.

        Args:
            model: The file; or ``facenet:vggface2``, ``onnx:FILE``, ``ncnn:FILE.param``.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size: Side in px of the aligned faces; None takes that of training.
            finder: As for the class.

        Raises:
            DataError: No such file, or no face network in it; the message says what to do.
            WeightsError: Another people's network cannot be read, or its library is absent.
        """
        from .embedding_engines import load_embedding_engine

        return cls(load_embedding_engine(model, device, size), finder)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        size: int = 160,
        threshold: Threshold | None = None,
        device: str = "auto",
        finder: FaceFinder | None = None,
    ) -> "FaceEmbedder":
        """Make an embedder of a network that was built in Python; the network is copied.

        Args:
            network: (B, 3, size, size) uint8 RGB to (B, D), such as ``FaceNetwork``.
            size: Side in px of the aligned faces, as in training.
            threshold: As measured with this network.
            device: As for ``load``.
            finder: As for the class.

        Raises:
            DataError: There is no such device.
        """
        from .embedding_engines import TorchEmbeddingEngine

        return cls(TorchEmbeddingEngine(network, size, threshold, device), finder)

    @property
    def threshold(self) -> Threshold | None:
        """The threshold that was measured with this model; None where none was."""
        return self.engine.threshold

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self._embed_crops([], 1).shape[1]

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
    ) -> list[Face] | list[list[Face]]:
        """Find and embed the faces of pictures.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or any
                iterable of them, of mixed kinds and sizes. Grey pictures, alpha and EXIF rotation
                are taken care of; see ``MemoryPicture``.
            batch_size: Pictures that are looked at together.

        Returns:
            The faces of a single picture, the largest first; for anything else a list of such
            lists. A picture without faces has an empty list.

        Raises:
            DataError: A picture cannot be read; use ``stream`` to go on with the others. Or an
                option is out of its range.
        """
        pictures, single = as_pictures(images)
        results = all_or_raise(self.stream(pictures, batch_size))
        return results[0] if single else results

    def stream(
        self, pictures: Iterable[Picture], batch_size: int = DEFAULT_BATCH_SIZE
    ) -> Iterator[list[Face] | DataError]:
        """Find and embed the faces of any number of pictures, holding only a few of them.

        Pictures are decoded in background threads, ahead of the networks by one batch.

        Args:
            pictures: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            batch_size: As for calling the embedder.

        Yields:
            For each picture in order its faces, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """

        def embed(pixels: Sequence[np.ndarray]) -> list[list[Face]]:
            found = self.finder(pixels)
            crops = [
                align_face(picture, landmarks, self.engine.size)
                for picture, faces in zip(pixels, found, strict=True)
                for landmarks in faces.landmarks
            ]
            return _grouped(found, self._embed_crops(crops, batch_size))

        return _in_batches(pictures, lambda picture: picture.read(), embed, batch_size)

    def embed_aligned(
        self,
        crops: PictureLike | Iterable[PictureLike],
        batch_size: int = 32,
    ) -> np.ndarray:
        """Embed faces that are cut out and aligned already, as ``align_face`` does.

        Args:
            crops: Pictures of any kind, as for calling the embedder; those of another size are
                stretched to the network's.
            batch_size: Faces that go through the network at once.

        Returns:
            (N, D) float32 of unit length; N is 1 for a single crop.

        Raises:
            DataError: A picture cannot be read, or an option is out of its range.
        """
        pictures, _ = as_pictures(crops)
        rows = all_or_raise(self.stream_aligned(pictures, batch_size))
        return np.stack(rows) if rows else self._embed_crops([], batch_size)

    def stream_aligned(
        self, crops: Iterable[Picture], batch_size: int = 32
    ) -> Iterator[np.ndarray | DataError]:
        """Embed any number of aligned faces, holding only a few of them.

        Args:
            crops: As for ``stream``.
            batch_size: Faces that go through the network at once.

        Yields:
            For each crop in order its embedding (D,) float32, or why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        size_hw = (self.engine.size, self.engine.size)

        def embed(pixels: Sequence[np.ndarray]) -> list[np.ndarray]:
            return list(self.engine(np.stack(pixels)))

        return _in_batches(
            crops, lambda picture: stretch(picture.read(), size_hw), embed, batch_size
        )

    def verify(
        self,
        a: PictureLike | Face | np.ndarray,
        b: PictureLike | Face | np.ndarray,
        threshold: float | None = None,
    ) -> Verification:
        """Say whether two faces are of one person.

        Args:
            a: A picture, of which the largest face is taken; a ``Face``; or an embedding (D,).
            b: Another one.
            threshold: Least similarity of one person; by default the one that was measured with
                this model.

        Returns:
            The answer, and the measured share of pairs of different people for which it would be
            "same" by mistake. Where few people were measured, or the pictures are of another kind,
            that share is another one.

        Raises:
            DataError: A picture cannot be read or has no face, or nobody measured the threshold.
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
        if isinstance(value, Face):
            return value.embedding
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return value
        faces = cast("list[Face]", self(value))
        if not faces:
            name = value if isinstance(value, str | Path) else f"the {place} picture"
            raise DataError(f"{name}: no face found, so there is nothing to compare")
        return faces[0].embedding

    def _embed_crops(self, crops: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        """Embed (size, size, 3) crops to (N, D); at least one goes through to know D."""
        size = self.engine.size
        if not crops:
            return self.engine(np.zeros((1, size, size, 3), np.uint8))[:0]
        parts = [
            self.engine(np.stack(crops[start : start + batch_size]))
            for start in range(0, len(crops), batch_size)
        ]
        return np.concatenate(parts)


def _grouped(found: Sequence[FacesFound], embeddings: np.ndarray) -> list[list[Face]]:
    rows = iter(embeddings)
    return [
        [Face(box, landmarks, float(score), next(rows))
         for box, landmarks, score in zip(*faces, strict=True)]
        for faces in found
    ]  # fmt: skip


def _in_batches(
    pictures: Iterable[Picture],
    read: Callable[[Picture], np.ndarray],
    embed: Callable[[Sequence[np.ndarray]], list[T]],
    batch_size: int,
) -> Iterator[T | DataError]:
    """Read pictures ahead and embed those of a batch that could be read."""
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}: must be at least 1")
    prepared = prepare_ahead(pictures, read, ahead=batch_size)
    while batch := list(islice(prepared, batch_size)):
        good = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
        rows = iter(embed(good) if good else [])
        for _, pixels in batch:
            yield pixels if isinstance(pixels, DataError) else next(rows)
