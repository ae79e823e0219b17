"""What `mobilevision embed` makes of a file: rows of numbers, and what they are called."""

from collections.abc import Iterable, Iterator
from itertools import islice, tee
from typing import Any, Protocol

import numpy as np

from ...datasets.errors import DataError
from ...datasets.face_views import FaceViews
from ...datasets.images import ImageFile
from ..files.parquet_rows import Column
from ..inference.face_detector import FaceFinder, FacesFound
from ..inference.face_embedding import Face, FaceEmbedder
from ..inference.images import prepare_ahead
from .embedding_store import Listed

Outcome = tuple[Listed, np.ndarray | DataError]


class RowMaker(Protocol):
    """Makes the rows of each file."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the numbers of a row are."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """What the rows depend on, besides the model and the file: plain data."""
        ...

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """Yield for each file in order its rows (K, N) float32, K may be 0, or its fault."""
        ...


class FoundFaces:
    """Faces found in pictures: box, landmarks, score and embedding of each.

    Args:
        embedder: The model.
        batch_size: Pictures that are looked at together.
        largest: Only the largest face of a picture.
    """

    def __init__(self, embedder: FaceEmbedder, batch_size: int, largest: bool = False) -> None:
        self.embedder = embedder
        self.batch_size = batch_size
        self.largest = largest
        self.columns = (
            Column("face", None, "int32"),
            Column("box", 4),
            Column("landmarks", 10),
            Column("score", None),
            Column("embedding", embedder.dimension),
        )
        self.about = {"rows": "faces found", "largest": largest}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``RowMaker``."""
        listed, read = tee(files)
        outcomes = self.embedder.stream((ImageFile(file.path) for file in read), self.batch_size)
        for file, faces in zip(listed, outcomes, strict=True):
            yield file, faces if isinstance(faces, DataError) else self._rows(faces)

    def _rows(self, faces: list[Face]) -> np.ndarray:
        width = sum(column.width or 1 for column in self.columns)
        kept = faces[:1] if self.largest else faces
        rows = [
            np.concatenate([[number], face.box, face.landmarks.ravel(), [face.score],
                            face.embedding])
            for number, face in enumerate(kept)
        ]  # fmt: skip
        return np.array(rows, dtype=np.float32).reshape(-1, width)


class AlignedFaces:
    """Embeddings of pictures that are aligned faces already.

    Args:
        embedder: The model.
        batch_size: Faces that go through the network at once.
    """

    def __init__(self, embedder: FaceEmbedder, batch_size: int) -> None:
        self.embedder = embedder
        self.batch_size = batch_size
        self.columns = (Column("embedding", embedder.dimension),)
        self.about = {"rows": "aligned"}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``RowMaker``."""
        listed, read = tee(files)
        crops = (ImageFile(file.path) for file in read)
        outcomes = self.embedder.stream_aligned(crops, self.batch_size)
        for file, row in zip(listed, outcomes, strict=True):
            yield file, row if isinstance(row, DataError) else row[None]


class ViewsOfFaces:
    """Embeddings of several views of each face; see ``datasets.face_views``.

    Args:
        embedder: The model, usually a teacher.
        views: Draws them; of the files that are listed, in that order.
        count: Views of each file, from view 0, the plain face.
        batch_size: Views that go through the network at once.
    """

    def __init__(
        self, embedder: FaceEmbedder, views: FaceViews, count: int, batch_size: int
    ) -> None:
        self.embedder = embedder
        self.views = views
        self.count = count
        self.batch_size = batch_size
        self.columns = (
            Column("view", None, "int32"),
            Column("embedding", embedder.dimension),
        )
        self.about = {"rows": "views", "count": count, "fingerprint": views.fingerprint}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``RowMaker``."""

        def render(file: Listed) -> np.ndarray:
            index = file.position - 1
            return np.stack(
                [self.views.render(index, view, self.embedder.size) for view in range(self.count)]
            )

        numbers = np.arange(self.count, dtype=np.float32)[:, None]
        for file, faces in prepare_ahead(files, render, ahead=4):
            if isinstance(faces, DataError):
                yield file, faces
                continue
            starts = range(0, self.count, self.batch_size)
            parts = [
                self.embedder.runtime(faces[start : start + self.batch_size])["embeddings"]
                for start in starts
            ]
            yield file, np.concatenate([numbers, np.concatenate(parts)], axis=1)


class FoundLandmarks:
    """The five landmarks of the largest face, ten numbers, so that data is aligned once.

    Args:
        finder: What finds faces.
        batch_size: Pictures that are looked at together.
    """

    columns = (Column("vector", 10),)

    def __init__(self, finder: FaceFinder, batch_size: int) -> None:
        self.finder = finder
        self.batch_size = batch_size
        self.about = {"rows": "landmarks"}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``RowMaker``."""
        pixels = prepare_ahead(files, lambda file: ImageFile(file.path).read(), self.batch_size)
        while batch := list(islice(pixels, self.batch_size)):
            good = [picture for _, picture in batch if not isinstance(picture, DataError)]
            found = iter(self.finder(good))
            for file, picture in batch:
                failed = isinstance(picture, DataError)
                yield file, picture if failed else _landmarks(next(found))


def _landmarks(faces: FacesFound) -> np.ndarray:
    return faces.landmarks[:1].reshape(-1, 10)
