"""``mobilevision attributes``: what is said of a file's faces as rows of one table."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from ...datasets.files import replaced_atomically
from ...datasets.images import ImageFile
from ...datasets.labels import LANDMARK_COLUMNS
from ..drawing.attributes import draw_attributes
from ..files.parquet_rows import Column
from ..inference.face_attributes import FaceAttributes, FaceDescription
from ..inference.face_embedding import model_fingerprint
from .embed import Work, make_table, named_files
from .embedding_rows import Outcome
from .embedding_store import Counts, Listed

_JPEG_QUALITY = 92
_BOX_COLUMNS = ("x1", "y1", "x2", "y2")
YES = "_yes"
"""End of the columns that say yes (1) or no (0) at the stored threshold."""


class DescribedFaces:
    """Faces of pictures: box, landmarks, score, and of each attribute probability and answer.

    Args:
        describe: The model.
        batch_size: Pictures that are looked at together.
        aligned: Each picture is one face, framed as CelebA's aligned pictures are.
        largest: Only the largest face of a picture.
        pictures: Folder for annotated pictures, ``<number>_<name>.jpg``, numbered in the order of
            the files; None draws nothing.
    """

    def __init__(
        self,
        describe: FaceAttributes,
        batch_size: int,
        aligned: bool = False,
        largest: bool = False,
        pictures: Path | None = None,
    ) -> None:
        self.describe = describe
        self.batch_size = batch_size
        self.aligned = aligned
        self.largest = largest
        self.pictures = pictures
        names = describe.attributes
        self.columns = (
            Column("face", None, "int32"),
            *(Column(name, None) for name in (*_BOX_COLUMNS, *LANDMARK_COLUMNS, "score", *names)),
            *(Column(f"{name}{YES}", None, "int8") for name in names),
        )
        self.about: dict[str, Any] = {
            "rows": "attributes",
            "aligned": aligned,
            "largest": largest,
            "pictures": None if pictures is None else str(pictures),
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
            if self.pictures is not None:
                self._draw(self.pictures, file, kept)
            yield file, self._rows(kept)

    def _rows(self, faces: Sequence[FaceDescription]) -> np.ndarray:
        rows = [
            np.concatenate([[number], face.box, face.landmarks.ravel(), [face.score], face.values,
                            list(face.present.values())])
            for number, face in enumerate(faces)
        ]  # fmt: skip
        return np.array(rows, dtype=np.float32).reshape(-1, len(self.columns))

    def _draw(self, folder: Path, file: Listed, faces: Sequence[FaceDescription]) -> None:
        drawn = draw_attributes(ImageFile(file.path).read(), faces)
        path = folder / f"{file.position:06d}_{file.path.stem}.jpg"
        with replaced_atomically(path) as temporary:
            Image.fromarray(drawn).save(temporary, quality=_JPEG_QUALITY)


def describe_files(
    inputs: Sequence[str],
    model: Path,
    out: Path,
    aligned: bool = False,
    largest: bool = False,
    pictures: Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
) -> Counts:
    """Describe the faces of files in one table; see ``embed.make_table``.

    Args:
        inputs: Files, folders and patterns.
        model: A checkpoint of ``AttributeTask``.
        out: The table, ``.parquet`` or ``.csv``.
        aligned: As for ``DescribedFaces``, and so are the next three.
        largest: Only the largest face of a picture.
        pictures: Folder for annotated pictures.
        batch_size: Pictures that are looked at together.
        device: See ``FaceAttributes.load``.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An input is absent, the table cannot be written, or an option is out of its
            range.
        WeightsError: The model cannot be used.
    """
    if batch_size < 1:
        raise DataError("--batch-size is at least 1")
    describe = FaceAttributes.load(model, device)
    make = DescribedFaces(describe, batch_size, aligned, largest, pictures)
    facts = {**model_fingerprint(str(model)), "size_hw": list(describe.size_hw)}
    return make_table(Work(out, facts, {}), named_files(inputs), make)
