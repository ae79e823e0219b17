"""Verification: of two photos, and of a face model or cached embeddings on pairs of faces."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.pairs import make_pairs, read_pairs
from ...datasets.faces.sources import CelebAFaces, CelebAPart, Faces, FolderFaces, named_faces
from ...datasets.faces.views import FaceViews
from ...datasets.files import warn_if_shared
from ...datasets.vectors import read_vectors
from ...heads.face_embedding.fairness import measure_groups
from ...heads.face_embedding.threshold import VERIFICATION_METADATA
from ...heads.face_embedding.verification import (
    VerificationResult,
    threshold_metadata,
    verify_pairs,
)

if TYPE_CHECKING:
    from ..inference.face_embedding import Face, FaceEmbedder
    from ..inference.face_pipeline import Verification

DRAWN_PAIRS = 300
"""Pairs of each kind in each of ten folds, as in LFW."""


@dataclass(frozen=True)
class HeldOut:
    """The faces to verify, and their pairs.

    Attributes:
        images: The folder of the dataset; None where a table of embeddings names the faces.
        pairs: A list in the format of LFW's ``pairs.txt``; None draws pairs from the people.
        layout: A folder for each person, or CelebA, whose pairs are drawn.
        parts: Splits of CelebA.
        landmarks: As for ``FolderFaces``; None where the faces are aligned.
        groups: Attributes to measure the faces with and without; None takes ``Male`` and ``Young``
            if the layout is CelebA.
    """

    images: Path | None
    pairs: Path | None = None
    layout: Literal["folder", "celeba"] = "folder"
    parts: Sequence[str] = ("val",)
    landmarks: Path | None = None
    groups: Sequence[str] | None = None

    def read(self, table: Path | None = None, files: Sequence[str] = ()) -> Faces:
        """List the faces and their pairs.

        Args:
            table: The table of embeddings that names the faces if there is no folder.
            files: The names in it.

        Raises:
            DataError: A file is absent or faulty, or options contradict each other.
        """
        if self.layout == "celeba":
            if self.images is None or self.pairs is not None or self.landmarks is not None:
                raise DataError(
                    "--layout celeba needs the folder, --images, and brings its own landmarks and "
                    "people: leave --pairs and --landmarks out"
                )
            parts = cast("Sequence[CelebAPart]", self.parts)
            return CelebAFaces(self.images, parts, DRAWN_PAIRS).read()
        if self.groups:
            raise DataError("--groups needs attributes, which --layout celeba has")
        if self.images is not None:
            faces = FolderFaces(self.images, self.landmarks).read()
        elif table is not None:
            faces = named_faces(table.stem, files)
        else:
            raise DataError("--model needs the images, too: --images")
        if self.pairs is not None:
            return faces._replace(pairs=read_pairs(self.pairs, faces.files))
        return faces._replace(pairs=make_pairs(faces.identities, DRAWN_PAIRS, name=faces.name))


def verify_photos(
    photos: Sequence[str],
    model: str,
    threshold: float | None = None,
    aligned: bool = False,
    device: str = "auto",
    detector: str | None = None,
    faces: Literal["largest", "center"] = "largest",
) -> "Verification":
    """Compare the faces of two photos; stderr says where a photo has several.

    Args:
        photos: Two files or URLs.
        model: See ``FaceEmbedder.load``.
        threshold: Minimum similarity of one person; None takes the measured one of the model.
        aligned: The photos are aligned faces.
        device: See ``model``.
        detector: See ``model``.
        faces: Which face of a photo with several is taken.

    Raises:
        DataError: There are not two photos, one cannot be read or has no face, or there is no
            threshold.
        WeightsError: A network of another project cannot be read.
    """
    from ..inference.face_embedding import FaceEmbedder

    if len(photos) != 2:
        raise DataError(f"{len(photos)} photos: give two, or --images or --embeddings")
    embedder = FaceEmbedder.load(model, device, detector=detector)
    if threshold is None and embedder.threshold is None:
        raise DataError(
            f"{model}: no threshold was measured with this model. Give one, such as --threshold "
            "0.4, or measure it on pairs: `mobilevision verify` with --images and --pairs."
        )
    choice = "all" if faces == "largest" else faces  # the largest comes first
    per_photo = cast("list[list[Face]]", embedder(photos, aligned=aligned, faces=choice))
    for photo, found in zip(photos, per_photo, strict=True):
        if not found:
            raise DataError(
                f"{photo}: no face found, so there is nothing to compare. If it is one face, cut "
                "out and aligned, add --aligned."
            )
        if len(found) > 1:
            print(f"{photo}: {len(found)} faces; the largest is compared", file=sys.stderr)
    (first, *_), (second, *_) = per_photo
    return embedder.verify(first, second, threshold)


def format_verification(result: "Verification") -> str:
    """Format the comparison of two photos as text: the decision, and how often it errs."""
    decision = "the same person" if result.same else "not the same person"
    lines = [f"{decision}: similarity {result.similarity:.3f}, threshold {result.threshold:.3f}"]
    if result.measured is None:
        lines.append("the threshold is yours: nothing is known of its errors")
    else:
        lines += result.measured.explain()
    return "\n".join(lines) + "\n"


def verify_table(held_out: HeldOut, table: Path) -> VerificationResult:
    """Measure a table of embeddings, without torch.

    Args:
        held_out: The faces; without a folder, all faces of the table, whose people are the folders
            in their names, such as ``name/name_0001.jpg``.
        table: The embedding of each file, see ``datasets.vectors``; the files are named relative to
            the folder of the images.

    Raises:
        DataError: A file is absent or faulty, or faces are missing from the table.
    """
    warn_if_shared(table, "if these are embeddings of people you know, `chmod 600` it")
    vectors = read_vectors(table)
    files = vectors.files.tolist()
    faces = held_out.read(table, files)
    position = {file: row for row, file in enumerate(files)}
    missing = [file for file in faces.files if file not in position]
    if missing:
        raise DataError(
            f"{table}: {len(missing):,} of {len(faces.files):,} faces are not in it: "
            f"{', '.join(missing[:5])}. Embed the whole folder."
        )
    rows = vectors.vectors[[position[file] for file in faces.files]]
    return _measure(held_out, faces, rows, None)


def verify_model(
    held_out: HeldOut,
    model: str,
    batch_size: int = 32,
    device: str = "auto",
    size: int | None = None,
    keep_threshold: bool = True,
) -> VerificationResult:
    """Embed the faces of a folder with a model and measure them.

    The whole folder is embedded, even faces that are in no pair, because every face is also
    compared with every other. For model, device and size see ``FaceEmbedder.load``. Groups are
    measured at the model's own threshold, if it has one and keeps it, or else at that of the pairs.

    Raises:
        DataError: A file is absent or faulty, or an option is out of range.
        WeightsError: A third-party network cannot be read.
    """
    from ..inference.face_embedding import FaceEmbedder

    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}: must be at least 1")
    faces = held_out.read()
    embedder = FaceEmbedder.load(model, device, size)
    if embedder.margin_px is not None:
        print(f"{model}: made for faces cut out by their boxes, and these are aligned by landmarks",
              file=sys.stderr)  # fmt: skip
    rows = _embed(FaceViews(faces, embedder.size), embedder, batch_size)
    own = embedder.threshold if keep_threshold else None
    return _measure(held_out, faces, rows, own.similarity if own else None)


def _embed(views: FaceViews, embedder: "FaceEmbedder", batch_size: int) -> np.ndarray:
    """Return embeddings (N, D) of the plain faces, prepared as in evaluation during training."""
    from tqdm import tqdm

    from ..inference.predictor import prepare_ahead

    parts: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    ahead = prepare_ahead(range(len(views)), views.render, ahead=batch_size)
    for number, (_, face) in enumerate(tqdm(ahead, "faces", len(views), unit="face"), start=1):
        if isinstance(face, DataError):
            raise face
        batch.append(face)
        if len(batch) == batch_size or number == len(views):
            parts.append(embedder.runtime(np.stack(batch))["embeddings"])
            batch = []
    return np.concatenate(parts)


def _measure(
    held_out: HeldOut, faces: Faces, rows: np.ndarray, stored: float | None
) -> VerificationResult:
    labels = _group_labels(held_out, faces)
    assert faces.pairs is not None  # set by HeldOut.read
    result = verify_pairs(rows, faces.pairs, faces.name, faces.identities)
    if not labels:
        return result
    limit, origin = result.threshold, "best on the pairs above"
    if stored is not None:
        limit, origin = stored, "the checkpoint's own"
    groups = measure_groups(rows, faces.identities, labels, limit, origin)
    return replace(result, groups=groups)


def _group_labels(held_out: HeldOut, faces: Faces) -> dict[str, np.ndarray]:
    """Return labels (N,) of the faces for each attribute."""
    table = faces.labels
    if table is None:
        return {}
    names, known = held_out.groups, table.attributes
    if names is None:
        names = [name for name in ("Male", "Young") if name in known]
    unknown = [name for name in names if name not in known]
    if unknown:
        what = f"no attribute {', '.join(unknown)}; there are {', '.join(known)}"
        raise DataError(f"{faces.name}: {what}")
    return {name: table.labels[:, known.index(name)] for name in names}


def store_threshold(checkpoint: Path, result: VerificationResult) -> None:
    """Store a measured threshold with its errors, also by group, in a checkpoint, atomically.

    Raises:
        DataError: It is no checkpoint of this package.
    """
    from ...heads.checkpoint import CHECKPOINT_ENTRY, read_checkpoint
    from ..training.runs import AtomicCheckpointIO

    content = read_checkpoint(checkpoint)
    if CHECKPOINT_ENTRY not in content:
        raise DataError(f"{checkpoint}: a threshold can be stored in our checkpoints only")
    content[CHECKPOINT_ENTRY][VERIFICATION_METADATA] = threshold_metadata(result)
    AtomicCheckpointIO().save_checkpoint(content, checkpoint)
