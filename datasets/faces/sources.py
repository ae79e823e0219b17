"""Sets of faces: files, people and landmarks.

A YAML names a source by ``class_path``; it is read when a run starts. Aligned faces have no
landmarks; all others are aligned by them (see ``alignment.py``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ..detection.image_checks import IMAGE_SUFFIXES
from ..errors import DataError
from ..files import existing_files
from ..vectors import read_vectors
from .celeba import PARTITIONS, read_celeba
from .labels import LabelTable
from .pairs import Pairs, make_pairs, read_pairs

CelebAPart = Literal["train", "val", "test"]


class Faces(NamedTuple):
    """N faces, each in a file of its own."""

    name: str
    """The name of the set in results."""
    root: Path
    files: tuple[str, ...]
    """Relative to the root, with "/", sorted."""
    landmarks_xy: np.ndarray | None
    """(N, 5, 2) float64, px, in the order of the template; None if the faces are aligned."""
    identities: np.ndarray
    """(N,) int64, person index; -1 where it is not known."""
    people: tuple[str, ...]
    """Name of each person index."""
    pairs: Pairs | None = None
    """Pairs for verification."""
    labels: LabelTable | None = None
    """Attributes of the faces, in their order; None if they are not known."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files with their folder."""
        return tuple(str(self.root / file) for file in self.files)


class FaceSource(Protocol):
    """A source of faces."""

    def read(self) -> Faces:
        """Read the lists, not the images."""
        ...


class FolderFaces:
    """A folder with one sub-folder for each person, or with images of unknown people.

    Args:
        root: The folder; searched to any depth. An image's first sub-folder is its person.
        landmarks: Table of the five landmarks of each file (ten numbers: x and y in px), in a
            format of ``vectors.py``; None if the faces are aligned to ArcFace's template.
        pairs: LFW's ``pairs.txt`` or one like it, for verification; relative to ``root``.
        make_pairs: Draws pairs instead: the number of same and of different pairs in each of ten
            folds; None draws none.
        seed: Seed of the drawn pairs.

    Raises:
        DataError: ``pairs`` and ``make_pairs`` are both given.
    """

    def __init__(
        self,
        root: str | Path,
        landmarks: str | Path | None = None,
        pairs: str | None = None,
        make_pairs: int | None = None,
        seed: int = 0,
    ) -> None:
        if pairs is not None and make_pairs is not None:
            raise DataError("pairs and make_pairs exclude each other: read them or draw them")
        self.root = Path(root)
        self.landmarks = None if landmarks is None else Path(landmarks)
        self.pairs, self.make_pairs, self.seed = pairs, make_pairs, seed

    def read(self) -> Faces:
        """See `FaceSource`."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder of faces")
        files = sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
        )
        points = None
        if self.landmarks is not None:
            table = read_vectors(self.landmarks)
            if table.vectors.shape[1] != 10:
                raise DataError(f"{self.landmarks}: wanted are 10 numbers for each file")
            known = dict(zip(table.files.tolist(), table.vectors, strict=True))
            # Files without an entry are those in which no face was found.
            files = [file for file in files if file in known]
            points = np.array([known[file] for file in files], np.float64).reshape(-1, 5, 2)
        if not files:
            raise DataError(f"{self.root}: no images of faces (with landmarks) below it")
        faces = named_faces(self.root.name, files, self.root, points)
        if self.pairs is not None:
            return faces._replace(pairs=read_pairs(self.root / self.pairs, faces.files))
        return _with_drawn_pairs(faces, self.make_pairs, self.seed)


class LfwFaces(FolderFaces):
    """Labeled Faces in the Wild, aligned, with its 6,000 pairs: ``<Name>/<Name>_0001.jpg``.

    Args:
        root: The folder of the people.
        pairs: The pairs; relative to ``root``.
        landmarks: As for `FolderFaces`, if the images are not aligned.
    """

    def __init__(
        self, root: str | Path, pairs: str = "pairs.txt", landmarks: str | Path | None = None
    ) -> None:
        super().__init__(root, landmarks, pairs)


class CelebAFaces:
    """CelebA's aligned images (178x218), brought to ArcFace's template by their landmarks.

    Args:
        root: Folder with ``img_align_celeba`` and the lists, see ``celeba.py``. Without
            ``identity_CelebA.txt`` nobody is known.
        parts: Parts of ``list_eval_partition`` to use.
        make_pairs: As for `FolderFaces`.
        seed: Seed of the drawn pairs.
    """

    def __init__(
        self,
        root: str | Path,
        parts: Sequence[CelebAPart] = ("train",),
        make_pairs: int | None = None,
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.parts = tuple(parts)
        if not self.parts or not set(self.parts) <= set(PARTITIONS):
            raise DataError(f"parts={list(parts)}: take some of {', '.join(PARTITIONS)}")
        self.make_pairs, self.seed = make_pairs, seed

    def read(self) -> Faces:
        """See `FaceSource`."""
        celeba = read_celeba(self.root)
        numbers = [PARTITIONS[part] for part in self.parts]
        rows = np.flatnonzero(np.isin(celeba.partitions, numbers))
        table = celeba.table.take(f"CelebA {'+'.join(self.parts)}", rows)
        if table.landmarks is None or not len(rows):
            raise DataError(
                f"{self.root}: {len(rows):,} images in the parts {', '.join(self.parts)}, and "
                f"{'no' if table.landmarks is None else 'a'} list_landmarks_align_celeba. Both "
                "are needed to align faces."
            )
        paths = [Path(path) for path in table.paths]
        exists = existing_files(table.paths).tolist()
        missing = [path.name for path, there in zip(paths, exists, strict=True) if not there]
        if missing:
            raise DataError(
                f"{paths[0].parent}: {len(missing):,} listed images are not there: "
                f"{', '.join(missing[:5])}. Complete the dataset."
            )
        known = table.identities
        if known is None and self.make_pairs is not None:
            raise DataError(
                f"{self.root}: pairs are drawn from people, and there is no identity_CelebA.txt; "
                "CelebA's authors hand it out"
            )
        owners = [None] * len(rows) if known is None else [str(x) for x in known.tolist()]
        points = table.landmarks.astype(np.float64)
        faces = _faces(table.name, paths[0].parent, [x.name for x in paths], points, owners)
        faces = faces._replace(labels=table)
        return _with_drawn_pairs(faces, self.make_pairs, self.seed)


def named_faces(
    name: str,
    files: Sequence[str],
    root: Path | None = None,
    landmarks_xy: np.ndarray | None = None,
) -> Faces:
    """Return faces whose first folder is their person; see `Faces` for the arguments.

    The person of a face in no folder is not known. Without a root no image can be read.
    """
    owners = [file.split("/")[0] if "/" in file else None for file in files]
    return _faces(name, root or Path(), files, landmarks_xy, owners)


def _faces(
    name: str,
    root: Path,
    files: Sequence[str],
    points: np.ndarray | None,
    owners: Sequence[str | None],
) -> Faces:
    people = tuple(sorted({owner for owner in owners if owner is not None}))
    index: dict[str | None, int] = {person: number for number, person in enumerate(people)}
    identities = np.array([index.get(owner, -1) for owner in owners], dtype=np.int64)
    return Faces(name, root, tuple(files), points, identities, people)


def _with_drawn_pairs(faces: Faces, per_fold: int | None, seed: int) -> Faces:
    if per_fold is None:
        return faces
    return faces._replace(pairs=make_pairs(faces.identities, per_fold, seed, faces.name))
