"""Verification of anybody's face model, or of cached embeddings, on a list of pairs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.errors import DataError
from ...datasets.face_pairs import Pairs, read_pairs
from ...datasets.face_views import FaceViews
from ...datasets.faces import FolderFaces
from ...datasets.vectors import read_vectors
from ...heads.face_embedding.verification import VerificationResult, verify_pairs

if TYPE_CHECKING:
    from .embedding_engines import EmbeddingEngine


def verify_table(pairs: Path, table: Path) -> VerificationResult:
    """Measure a table of embeddings; free of torch.

    Args:
        pairs: A list in the form of LFW's ``pairs.txt``.
        table: Embedding of each file, see ``datasets.vectors``; the files are named as they lie
            in the folder of the pictures, ``name/name_0001.jpg``.

    Raises:
        DataError: A file is absent or faulty, or faces of the list are not in the table.
    """
    vectors = read_vectors(table)
    files = vectors.files.tolist()
    return _verify(vectors.vectors, files, read_pairs(pairs, files), table.stem)


def verify_model(
    pairs: Path,
    images: Path,
    model: str,
    landmarks: Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    size: int | None = None,
) -> VerificationResult:
    """Embed the faces of a folder and measure them.

    All of the folder are embedded, also those in no pair: every face is compared with every other,
    too.

    Args:
        pairs: A list in the form of LFW's ``pairs.txt``.
        images: The folder, with one for each person in it.
        model: A checkpoint, ``facenet:vggface2``, ``onnx:FILE`` or ``ncnn:FILE.param``.
        landmarks: As for ``FolderFaces``; None where the faces are aligned.
        batch_size: Faces that go through the network at once.
        device: "auto" takes an accelerator where there is one, else the CPU.
        size: Side in px of the faces; None takes that of training.

    Raises:
        DataError: A file is absent or faulty, or an option is out of its range.
        WeightsError: Another people's network cannot be read.
    """
    from .embedding_engines import load_embedding_engine

    if batch_size < 1:
        raise DataError(f"batch_size={batch_size}: must be at least 1")
    faces = FolderFaces(images, landmarks).read()
    listed = read_pairs(pairs, faces.files)
    engine = load_embedding_engine(model, device, size)
    rows = _embed(FaceViews(faces, engine.size), engine, batch_size)
    return _verify(rows, list(faces.files), listed, faces.name)


def _embed(views: FaceViews, engine: "EmbeddingEngine", batch_size: int) -> np.ndarray:
    """Embeddings (N, D) of the plain faces, as evaluation in training sees them."""
    from tqdm import tqdm

    from ..files.inputs import prepare_ahead

    parts: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    ahead = prepare_ahead(range(len(views)), views.render, ahead=batch_size)
    for number, (_, face) in enumerate(tqdm(ahead, "faces", len(views), unit="face"), start=1):
        if isinstance(face, DataError):
            raise face
        batch.append(face)
        if len(batch) == batch_size or number == len(views):
            parts.append(engine(np.stack(batch)))
            batch = []
    return np.concatenate(parts)


def _verify(rows: np.ndarray, files: list[str], pairs: Pairs, name: str) -> VerificationResult:
    people = [file.split("/")[0] if "/" in file else "" for file in files]
    numbers = {person: number for number, person in enumerate(sorted(set(people) - {""}))}
    identities = np.array([numbers.get(person, -1) for person in people])
    return verify_pairs(rows, pairs, name, identities)


def store_threshold(checkpoint: Path, result: VerificationResult) -> None:
    """Put a measured threshold and its false accept rate into a checkpoint, atomically.

    Raises:
        DataError: It is no checkpoint of this package.
    """
    from ...heads.face_embedding.task import VERIFICATION_FACTS, threshold_facts
    from ...heads.task import CHECKPOINT_ENTRY
    from ..training.runs import AtomicCheckpointIO

    files = AtomicCheckpointIO()
    content = files.load_checkpoint(checkpoint, map_location="cpu")
    if not isinstance(content, dict) or CHECKPOINT_ENTRY not in content:
        raise DataError(f"{checkpoint}: a threshold can be stored in our checkpoints only")
    content[CHECKPOINT_ENTRY][VERIFICATION_FACTS] = threshold_facts(result)
    files.save_checkpoint(content, checkpoint)
