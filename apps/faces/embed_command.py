"""The whole of ``mobilevision embed``: which model, which files, which rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ...datasets.errors import DataError
from ...datasets.face_views import FaceViews
from ...datasets.faces import CelebAFaces, CelebAPart, Faces, FolderFaces
from ..files.input_files import InputFile
from ..files.parquet_rows import check_parquet
from ..inference.face_detector import MTCNNFinder
from ..inference.face_embedding import FaceEmbedder, model_fingerprint
from .embed import Work, file_key, make_table, named_files
from .embedding_rows import AlignedFaces, FoundFaces, FoundLandmarks, RowMaker, ViewsOfFaces
from .embedding_store import Counts


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
        aligned: The pictures are aligned faces.
        largest: Only the largest face of each picture.
        views: Views of the faces of a data set, instead of the files.
        batch_size: Pictures at once in the network.
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
    metadata: dict[str, str] = {}
    make: RowMaker
    files: Iterable[tuple[InputFile, str, str]]
    if views and faces:
        drawn = FaceViews(faces, embedder.size, views.seed)
        make = ViewsOfFaces(embedder, drawn, views.count, batch_size)
        metadata = {"fingerprint": drawn.fingerprint}
        files = _files_of(faces)
    else:
        make = (AlignedFaces if aligned else FoundFaces)(embedder, batch_size)
        if largest:
            make = FoundFaces(embedder, batch_size, largest)
        files = named_files(inputs)
    facts = {**model_fingerprint(model), "size": embedder.size}
    return make_table(Work(out, facts, metadata), files, make)


def find_faces(
    inputs: Sequence[str], out: Path, batch_size: int = 16, device: str = "auto"
) -> Counts:
    """Find the largest face of each file, and write its five landmarks; see ``make_table``.

    Args:
        inputs: Files, folders and patterns.
        out: The table, ``.parquet``: ``file`` and ``vector``, ten numbers x and y in px, as the
            face data sets take it.
        batch_size: Pictures that are looked at together.
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
    facts = {"model": "mtcnn", "min_score": finder.min_score, "longest_px": finder.longest_px}
    make = FoundLandmarks(finder, batch_size)
    return make_table(Work(out, facts, {}), named_files(inputs), make)


def _files_of(faces: Faces) -> Iterable[tuple[InputFile, str, str]]:
    for name in faces.files:
        file = InputFile(faces.root / name, name)
        yield file, name, file_key(file)
