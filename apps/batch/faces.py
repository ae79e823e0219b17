"""Embed and describe the faces of any number of files, one table each."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from ...datasets.faces.labels import LANDMARK_COLUMNS
from ...datasets.faces.sources import CelebAFaces, CelebAPart, Faces, FolderFaces
from ...datasets.faces.views import FaceViews
from ...datasets.files import replaced_atomically
from ...datasets.images import ImageFile
from ..drawing import draw_attributes
from ..inference.face_analysis import FaceAnalyzer
from ..inference.face_attributes import FaceAttributes, FaceDescription
from ..inference.face_detector import FaceFinder, FacesFound, MTCNNFinder
from ..inference.face_embedding import Face, FaceEmbedder, model_fingerprint
from ..inference.predictor import prepare_ahead
from .inputs import InputFile
from .runner import (
    Counts,
    Job,
    Listed,
    Made,
    Named,
    file_key,
    named_files,
    pack,
    print_summary,
    run_over_files,
    unpack,
)
from .tables import Column, check_parquet, check_table, row_table

Outcome = tuple[Listed, np.ndarray | DataError]

_JPEG_QUALITY = 92
_BOX_COLUMNS = ("x1", "y1", "x2", "y2")
YES = "_yes"
"""End of the columns that say yes (1) or no (0) at the stored threshold."""


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
    """Faces found in images: box, landmarks, score and embedding of each.

    Args:
        embedder: The model.
        batch_size: Images that are looked at together.
        largest: Only the largest face of an image.
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
    """Embeddings of images that are aligned faces already.

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
    """Embeddings of several views of each face; see ``datasets.faces.views``.

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
        batch_size: Images that are looked at together.
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
            good = [image for _, image in batch if not isinstance(image, DataError)]
            found = iter(self.finder(good))
            for file, image in batch:
                failed = isinstance(image, DataError)
                yield file, image if failed else _landmarks(next(found))


def _landmarks(faces: FacesFound) -> np.ndarray:
    return faces.landmarks[:1].reshape(-1, 10)


class DescribedFaces:
    """Faces of images: box, landmarks, score, and of each attribute probability and answer.

    Args:
        describe: The model; with a ``FaceAnalyzer`` each row ends in the face's embedding.
        batch_size: Images that are looked at together.
        aligned: Each image is one face, framed as CelebA's aligned images are.
        largest: Only the largest face of an image.
        images: Folder for annotated images, ``<number>_<name>.jpg``, numbered in the order of
            the files; None draws nothing.
    """

    def __init__(
        self,
        describe: FaceAttributes | FaceAnalyzer,
        batch_size: int,
        aligned: bool = False,
        largest: bool = False,
        images: Path | None = None,
    ) -> None:
        self.describe = describe
        self.batch_size = batch_size
        self.aligned = aligned
        self.largest = largest
        self.images = images
        names = describe.attributes
        self.columns = (
            Column("face", None, "int32"),
            *(Column(name, None) for name in (*_BOX_COLUMNS, *LANDMARK_COLUMNS, "score", *names)),
            *(Column(f"{name}{YES}", None, "int8") for name in names),
        )
        if isinstance(describe, FaceAnalyzer):
            self.columns += (Column("embedding", describe.dimension),)
        self.about: dict[str, Any] = {
            "rows": "attributes",
            "aligned": aligned,
            "largest": largest,
            "pictures": None if images is None else str(images),
            "thresholds": describe.thresholds,
        }

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``RowMaker``."""
        listed, read = tee(files)
        sources = (ImageFile(file.path) for file in read)
        outcomes = self.describe.stream(sources, self.batch_size, aligned=self.aligned)
        for file, faces in zip(listed, outcomes, strict=True):
            if isinstance(faces, DataError):
                yield file, faces
                continue
            kept = faces[:1] if self.largest else faces
            if self.images is not None:
                self._draw(self.images, file, kept)
            yield file, self._rows(kept)

    def _rows(self, faces: Sequence[FaceDescription]) -> np.ndarray:
        width = sum(column.width or 1 for column in self.columns)
        rows = [
            np.concatenate([[number], face.box, face.landmarks.ravel(), [face.score], face.values,
                            list(face.present.values()), getattr(face, "embedding", [])])
            for number, face in enumerate(faces)
        ]  # fmt: skip
        return np.array(rows, dtype=np.float32).reshape(-1, width)

    def _draw(self, folder: Path, file: Listed, faces: Sequence[FaceDescription]) -> None:
        drawn = draw_attributes(ImageFile(file.path).read(), faces)
        path = folder / f"{file.position:06d}_{file.path.stem}.jpg"
        with replaced_atomically(path) as temporary:
            Image.fromarray(drawn).save(temporary, quality=_JPEG_QUALITY)


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        out: The table, ``.parquet`` or ``.csv``; beside it is ``<out>.progress``, from which a run
            goes on.
        model: What the table says of its model; also what the rows depend on.
        metadata: What readers of the table need to know besides, in its schema.
    """

    out: Path
    model: dict[str, Any]
    metadata: dict[str, str]


class _RowJob(Job):
    """A ``RowMaker`` as a ``Job``."""

    def __init__(self, make_rows: RowMaker, model: Mapping[str, Any]) -> None:
        self.make_rows = make_rows
        self.depends = {**model, **make_rows.about}

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        for file, rows in self.make_rows(files):
            yield file, rows if isinstance(rows, DataError) else pack(rows)


def make_table(work: Work, files: Iterable[Named], make_rows: RowMaker) -> Counts:
    """Make the rows of all files that are not done, write the table, and say what came of it.

    Args:
        work: The table and the model.
        files: See ``run_over_files``.
        make_rows: What to make of a file.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: A word of the command line names nothing, or the table cannot be written.
    """
    check_table(work.out)
    job = _RowJob(make_rows, work.model)
    with run_over_files(files, job, Path(f"{work.out}.progress")) as store:
        about = {"mobilevision": json.dumps(job.depends), **work.metadata}
        with row_table(work.out, make_rows.columns, about) as add:
            for file, made in store.results():
                if made.rows:
                    add(file.name, unpack(made))
        return print_summary(work.out, store)


@dataclass(frozen=True)
class Views:
    """Which faces of a data set are drawn, and how often.

    Attributes:
        count: Views of each face, from view 0, the plain face.
        layout: Aligned faces in folders (or others, with ``landmarks``), or CelebA.
        parts: Of CelebA.
        landmarks: Table of the five landmarks of each file.
        seed: Of the views.
    """

    count: int
    layout: Literal["folder", "celeba"] = "folder"
    parts: Sequence[str] = ("train",)
    landmarks: Path | None = None
    seed: int = 0

    def read(self, inputs: Sequence[str]) -> Faces:
        """List the faces of the one folder that is the input.

        Raises:
            DataError: There is another number of inputs, or the data set is faulty.
        """
        if len(inputs) != 1 or self.count < 1:
            raise DataError(
                f"--views {self.count}: at least 1, and of one data set; give one folder"
            )
        if self.layout == "celeba":
            return CelebAFaces(inputs[0], cast("Sequence[CelebAPart]", self.parts)).read()
        return FolderFaces(inputs[0], self.landmarks).read()


def embed(
    inputs: Sequence[str],
    model: str,
    out: Path,
    aligned: bool = False,
    largest: bool = False,
    views: Views | None = None,
    batch_size: int = 16,
    device: str = "auto",
    size: int | None = None,
) -> Counts:
    """Embed the faces of files into one table; see ``make_table``.

    Args:
        inputs: Files, folders and patterns.
        model: As ``FaceEmbedder.load`` takes it.
        out: The table, ``.parquet``.
        aligned: The images are aligned faces.
        largest: Only the largest face of each image.
        views: Views of the faces of a data set, instead of the files.
        batch_size: Images at once in the network.
        device: See ``FaceEmbedder.load``.
        size: See ``FaceEmbedder.load``.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: Options exclude each other or are out of their range, an input is absent, or the
            model cannot be used.
        WeightsError: Another people's network cannot be read.
    """
    check_parquet(out)
    if aligned + largest + (views is not None) > 1 or batch_size < 1:
        raise DataError(
            "--aligned, --largest and --views exclude each other, and --batch-size is at least 1"
        )
    faces = views.read(inputs) if views else None
    embedder = FaceEmbedder.load(model, device, size)
    extra: dict[str, str] = {}
    make: RowMaker
    files: Iterable[Named]
    if views and faces:
        drawn = FaceViews(faces, embedder.size, views.seed)
        make = ViewsOfFaces(embedder, drawn, views.count, batch_size)
        extra = {"fingerprint": drawn.fingerprint}
        files = _files_of(faces)
    else:
        make = (AlignedFaces if aligned else FoundFaces)(embedder, batch_size)
        if largest:
            make = FoundFaces(embedder, batch_size, largest)
        files = named_files(inputs)
    metadata = {**model_fingerprint(model), "size": embedder.size}
    return make_table(Work(out, metadata, extra), files, make)


def find_faces(
    inputs: Sequence[str], out: Path, batch_size: int = 16, device: str = "auto"
) -> Counts:
    """Find the largest face of each file, and write its five landmarks; see ``make_table``.

    Args:
        inputs: Files, folders and patterns.
        out: The table, ``.parquet``: ``file`` and ``vector``, ten numbers x and y in px, as the
            face data sets take it.
        batch_size: Images that are looked at together.
        device: See ``MTCNNFinder``.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An input is absent, or an option is out of its range.
    """
    check_parquet(out)
    if batch_size < 1:
        raise DataError("--batch-size is at least 1")
    finder = MTCNNFinder(device=device)
    metadata = {"model": "mtcnn", "min_score": finder.min_score, "longest_px": finder.longest_px}
    make = FoundLandmarks(finder, batch_size)
    return make_table(Work(out, metadata, {}), named_files(inputs), make)


def describe_files(
    inputs: Sequence[str],
    model: Path,
    out: Path,
    aligned: bool = False,
    largest: bool = False,
    images: Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
    embeddings: bool = False,
) -> Counts:
    """Describe the faces of files in one table; see ``make_table``.

    Args:
        inputs: Files, folders and patterns.
        model: A model of ``FaceAttributes``, with ``embeddings`` of ``FaceAnalyzer``.
        out: The table, ``.parquet`` or ``.csv``.
        aligned: As for ``DescribedFaces``, and so are the next three.
        largest: Only the largest face of an image.
        images: Folder for annotated images.
        batch_size: Images that are looked at together.
        device: See ``FaceAttributes.load``.
        embeddings: Whether the model embeds faces, too.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An input is absent, the table cannot be written, or an option is out of its
            range.
        WeightsError: The model cannot be used.
    """
    if batch_size < 1:
        raise DataError("--batch-size is at least 1")
    describe = (FaceAnalyzer if embeddings else FaceAttributes).load(model, device)
    make = DescribedFaces(describe, batch_size, aligned, largest, images)
    metadata = {**model_fingerprint(str(model)), "size_hw": list(describe.size_hw)}
    return make_table(Work(out, metadata, {}), named_files(inputs), make)


def _files_of(faces: Faces) -> Iterator[Named]:
    for name in faces.files:
        file = InputFile(faces.root / name, name)
        yield file, name, file_key(file)
