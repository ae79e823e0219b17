"""Tables of the faces of any number of files: embeddings, landmarks, attributes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.labels import LANDMARK_COLUMNS
from ...datasets.faces.sources import CelebAFaces, CelebAPart, Faces, FolderFaces
from ...datasets.faces.views import FaceViews
from ..inference.face_analysis import FaceAnalyzer
from ..inference.face_attributes import FaceAttributes, FaceDescription
from ..inference.face_detection import (
    MTCNN,
    FaceChoice,
    FaceDetector,
    choose_faces,
    load_detector,
)
from ..inference.face_embedding import Face, FaceEmbedder, model_fingerprint
from ..inference.predictor import prepare_ahead
from .inputs import InputFile
from .runner import (
    Counts,
    Job,
    Listed,
    Made,
    named_files,
    over_images,
    over_inputs,
    pack,
    print_faults,
    run_over_files,
    unpack,
)
from .showing import Showing, Window
from .tables import Column, check_table, row_table

Outcome = tuple[Listed, Made | DataError]

_FRAME_COLUMNS = (Column("frame", None, "int32"), Column("time_s", None))
_BOX_COLUMNS = ("x1", "y1", "x2", "y2")


class RowJob(Job):
    """A ``Job`` whose results are rows (K, N) of numbers, see ``pack``; K may be 0.

    Attributes:
        columns: The columns of the numbers.
    """

    columns: tuple[Column, ...]


class FoundFaces(RowJob):
    """Makes rows of the faces in images: box, landmarks, score, embedding."""

    def __init__(
        self,
        embedder: FaceEmbedder,
        batch_size: int,
        faces: FaceChoice = "all",
        window: Window | None = None,
    ) -> None:
        self.embedder = embedder
        self.showing = Showing(embedder.draw, window=window)
        self.batch_size = batch_size
        self.faces: FaceChoice = faces
        self.columns = (
            Column("face", None, "int32"),
            Column("box", 4),
            Column("landmarks", 10),
            Column("score", None),
            Column("embedding", embedder.dimension),
        )
        self.depends = {"rows": "faces found", "faces": faces}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``Job``."""
        return over_inputs(
            files,
            lambda images: self.embedder.stream(images, self.batch_size, faces=self.faces),
            lambda _, faces: _rows(faces, self.columns),
            self.showing,
        )


def _rows(faces: Sequence[Face | FaceDescription], columns: Sequence[Column]) -> Made:
    """Return the rows of faces, with what the model predicts of them."""
    rows = []
    for number, face in enumerate(faces):
        row = [[number], face.box, face.landmarks.ravel(), [face.score]]
        if isinstance(face, FaceDescription):
            row += [face.values, list(face.present.values())]
        rows.append(np.concatenate([*row, getattr(face, "embedding", [])]))
    width = sum(column.width or 1 for column in columns)
    return pack(np.array(rows, dtype=np.float32).reshape(-1, width))


class AlignedFaces(RowJob):
    """Makes a row of the embedding of each image, which is an aligned face."""

    def __init__(
        self, embedder: FaceEmbedder, batch_size: int, window: Window | None = None
    ) -> None:
        self.embedder = embedder
        self.showing = Showing(lambda pixels, _: pixels, window=window)
        self.batch_size = batch_size
        self.columns = (Column("embedding", embedder.dimension),)
        self.depends = {"rows": "aligned"}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``Job``."""
        return over_inputs(
            files,
            lambda images: self.embedder.stream_aligned(images, self.batch_size),
            lambda _, embedding: pack(embedding[None]),
            self.showing,
        )


class ViewsOfFaces(RowJob):
    """Makes rows of the embeddings of several views of a face; see ``datasets.faces.views``.

    Args:
        embedder: The model, usually a teacher.
        views: Draws the views of the listed files, in the same order.
        count: Number of views of each file; view 0 is the plain face.
        batch_size: Number of views that go through the network at once.
    """

    def __init__(
        self, embedder: FaceEmbedder, views: FaceViews, count: int, batch_size: int
    ) -> None:
        self.embedder = embedder
        self.views = views
        self.count = count
        self.batch_size = batch_size
        self.columns = (Column("view", None, "int32"), Column("embedding", embedder.dimension))
        self.depends = {"rows": "views", "count": count, "fingerprint": views.fingerprint}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``Job``."""

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
            parts = [
                self.embedder.runtime(faces[start : start + self.batch_size])["embeddings"]
                for start in range(0, self.count, self.batch_size)
            ]
            yield file, pack(np.concatenate([numbers, np.concatenate(parts)], axis=1))


class FoundLandmarks(RowJob):
    """Makes a row of the five landmarks of one face, ten numbers, to align it later."""

    columns = (Column("vector", 10),)

    def __init__(self, detector: FaceDetector, batch_size: int, faces: FaceChoice) -> None:
        self.detector = detector
        self.batch_size = batch_size
        self.faces: FaceChoice = faces
        self.depends = {"rows": "landmarks", "faces": faces}

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``Job``."""
        stream, size = self.detector.stream, self.batch_size
        for file, _, found in over_images(files, lambda images: stream(images, batch_size=size)):
            if isinstance(found, DataError):
                yield file, found
                continue
            faces = choose_faces(found, found.size_hw, self.faces)
            yield file, pack(np.array([points for _, points, _ in faces]).reshape(-1, 10))


class DescribedFaces(RowJob):
    """Makes rows of the faces in images: box, landmarks, score and attributes.

    An attribute has a probability, and in a column that ends in ``_yes`` whether it reaches the
    stored threshold (1 or 0).

    Args:
        describe: The model; the rows of a ``FaceAnalyzer`` end in the face's embedding.
        batch_size: Number of images at once.
        aligned: Each image is one face, framed like CelebA's aligned images.
        faces: Which faces of an image.
        images: Folder for annotated images and videos, ``<number>_<name>.jpg`` and ``.mp4``,
            numbered in the order of the files; None writes nothing.
        window: Shows the same, or None.
    """

    def __init__(
        self,
        describe: FaceAttributes | FaceAnalyzer,
        batch_size: int,
        aligned: bool = False,
        faces: FaceChoice = "all",
        images: Path | None = None,
        window: Window | None = None,
    ) -> None:
        self.describe = describe
        self.batch_size = batch_size
        self.aligned = aligned
        self.faces: FaceChoice = faces
        self.showing = Showing(describe.draw, images, window)
        names = describe.attributes
        self.columns = (
            Column("face", None, "int32"),
            *(Column(name, None) for name in (*_BOX_COLUMNS, *LANDMARK_COLUMNS, "score", *names)),
            *(Column(f"{name}_yes", None, "int8") for name in names),
        )
        if isinstance(describe, FaceAnalyzer):
            self.columns += (Column("embedding", describe.dimension),)
        self.depends = {
            "rows": "attributes",
            "aligned": aligned,
            "faces": faces,
            "pictures": None if images is None else str(images),
            "thresholds": describe.thresholds,
        }

    def __call__(self, files: Iterable[Listed]) -> Iterator[Outcome]:
        """See ``Job``."""
        stream, size = self.describe.stream, self.batch_size
        return over_inputs(
            files,
            lambda images: stream(images, size, aligned=self.aligned, faces=self.faces),
            lambda _, faces: _rows(faces, self.columns),
            self.showing,
        )


def make_table(
    out: Path,
    model: Mapping[str, Any],
    files: Iterable[InputFile],
    job: RowJob,
    metadata: Mapping[str, str] | None = None,
) -> Counts:
    """Make the rows of all files that are not done, write the table, and print a summary.

    Only the owner can open the table: embeddings of faces are biometric data, attributes are
    statements about people.

    Args:
        out: The table, ``.parquet`` or ``.csv``. A run that was stopped is continued from
            ``<out>.progress``.
        model: Plain data that identifies the model, on which the rows depend.
        files: See ``run_over_files``.
        job: Makes the rows of the files.
        metadata: Further metadata of the table.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An argument of the command line matches no file, or the table cannot be written.
    """
    check_table(out)
    job.depends = {**model, **job.depends}
    with run_over_files(files, job, Path(f"{out}.progress")) as store:
        about = {"mobilevision": json.dumps(job.depends), **(metadata or {})}
        framed = store.has_frames()
        columns = (*_FRAME_COLUMNS * framed, *job.columns)
        with row_table(out, columns, about, private=True) as add:
            for file, made in store.results():
                if made.rows:
                    place = [[made.frame, made.time_s][: 2 * framed]] * made.rows
                    add(file.name, np.hstack([np.array(place), unpack(made)]))
        counts = store.counts()
        print(f"{counts.done:,} of {counts.files:,} files, {counts.rows:,} rows: {out}")
        if counts.empty:
            print(f"{counts.empty:,} files without a face have no row")
        print_faults(store, counts.faults)
    return counts


@dataclass(frozen=True)
class Views:
    """Options of the views of the faces of a dataset.

    Attributes:
        count: Number of views of each face; view 0 is the plain face.
        layout: Aligned faces in folders (or others, with ``landmarks``), or CelebA.
        parts: Splits of CelebA.
        landmarks: Table of the five landmarks of each file.
        seed: Seed of the views.
    """

    count: int
    layout: Literal["folder", "celeba"] = "folder"
    parts: Sequence[str] = ("train",)
    landmarks: Path | None = None
    seed: int = 0

    def read(self, inputs: Sequence[str]) -> Faces:
        """List the faces of the one folder that is the input.

        Raises:
            DataError: There is another number of inputs, or the dataset is faulty.
        """
        if len(inputs) != 1 or self.count < 1:
            raise DataError(
                f"--views {self.count}: must be at least 1, and of one dataset; give one folder"
            )
        if self.layout == "celeba":
            return CelebAFaces(inputs[0], cast("Sequence[CelebAPart]", self.parts)).read()
        return FolderFaces(inputs[0], self.landmarks).read()


def embed(
    inputs: Sequence[str],
    model: str,
    out: Path,
    aligned: bool = False,
    faces: FaceChoice = "all",
    views: Views | None = None,
    batch_size: int = 16,
    device: str = "auto",
    size: int | None = None,
    window: Window | None = None,
    detector: str | None = None,
) -> Counts:
    """Embed the faces of files into one table; see ``make_table``.

    The rows are those of ``FoundFaces``, with ``aligned`` those of ``AlignedFaces``, and with
    ``views`` those of ``ViewsOfFaces`` for the faces of a dataset.

    Args:
        inputs: See ``named_files``.
        model: See ``FaceEmbedder.load``, also for ``device`` and ``size``.
        out: The table, ``.parquet`` or, without ``views``, ``.csv``.
        aligned: The images are aligned faces.
        faces: Which faces of each image.
        views: The dataset and its views.
        batch_size: Number of images at once.
        device: See ``model``.
        size: See ``model``.
        window: Shows the faces, or None.
        detector: Finds the faces, see ``load_detector``.

    Raises:
        DataError: Options exclude each other or are out of range, an input is absent, or the model
            cannot be used.
        WeightsError: The network of another project cannot be read.
    """
    check_table(out, (".parquet",) if views else (".parquet", ".csv"))
    if aligned + (faces != "all") + (views is not None) > 1 or batch_size < 1:
        raise DataError(
            "--aligned, --faces and --views exclude each other, and --batch-size is at least 1"
        )
    dataset = views.read(inputs) if views else None
    embedder = FaceEmbedder.load(model, device, size, detector)
    identity = {**model_fingerprint(model), "size": embedder.size}
    if views and dataset:
        drawn = FaceViews(dataset, embedder.size, views.seed)
        files = (InputFile(dataset.root / name, name) for name in dataset.files)
        make = ViewsOfFaces(embedder, drawn, views.count, batch_size)
        return make_table(out, identity, files, make, {"fingerprint": drawn.fingerprint})
    if aligned:
        make = AlignedFaces(embedder, batch_size, window)
    else:
        make = FoundFaces(embedder, batch_size, faces, window)
        identity |= _identity(detector, embedder.detector)
    return make_table(out, identity, named_files(inputs), make)


def _identity(name: str | None, detector: Any) -> dict[str, Any]:
    """Return plain data that identifies a loaded detector, on which the faces found depend."""
    weights = {"kind": MTCNN} if name == MTCNN else model_fingerprint(FaceDetector.find(name))
    options = {"score": detector.score_threshold, "input_size": detector.input_size}
    return {"detector": {**weights, **options}}


def find_faces(
    inputs: Sequence[str],
    out: Path,
    batch_size: int = 16,
    device: str = "auto",
    detector: str | None = None,
    faces: Literal["largest", "center"] = "largest",
) -> Counts:
    """Write the landmarks of one face of each file; see ``make_table``.

    The table, ``.parquet``, has the columns ``file`` and ``vector``, ten numbers x and y in px, as
    the face datasets take it. For ``detector`` and ``device`` see ``load_detector``.

    Raises:
        DataError: An input is absent, or an option is out of range.
    """
    check_table(out, (".parquet",))
    if batch_size < 1:
        raise DataError("--batch-size is at least 1")
    loaded = load_detector(detector, device)
    files = (file for file in named_files(inputs) if file.kind == "image")
    make = FoundLandmarks(loaded, batch_size, faces)
    return make_table(out, _identity(detector, loaded), files, make)


def describe_files(
    inputs: Sequence[str],
    model: str | Path,
    out: Path,
    aligned: bool = False,
    faces: FaceChoice = "all",
    images: Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
    embeddings: bool = False,
    window: Window | None = None,
    detector: str | None = None,
) -> Counts:
    """Describe the faces of files in one table; see ``make_table`` and ``DescribedFaces``.

    The model is one of ``FaceAttributes``, or with ``embeddings`` one of ``FaceAnalyzer``.

    Raises:
        DataError: An input is absent, the table cannot be written, or an option is out of range.
        WeightsError: The model cannot be used.
    """
    check_table(out)
    if batch_size < 1:
        raise DataError("--batch-size is at least 1")
    kind = FaceAnalyzer if embeddings else FaceAttributes
    describe = kind.load(model, device, detector=detector)
    make = DescribedFaces(describe, batch_size, aligned, faces, images, window)
    identity = {**model_fingerprint(str(model)), "size_hw": list(describe.size_hw)}
    if not aligned:
        identity |= _identity(detector, describe.detector)
    return make_table(out, identity, named_files(inputs), make)
