"""Galleries of people and their face embeddings on disk: enroll, identify, list, remove.

The rows lie in a LanceDB table, which is searched exactly, without an index. LanceDB keeps removed
rows in older versions of the table, and in its data files until a tenth of a file's rows is gone.
A removal therefore rewrites the other rows and deletes the older versions. That is only safe while
no other process has the table open, so every access holds the gallery's lock.

Embeddings of faces are biometric data: only the owner may read the folder and its files.

A change is complete when LanceDB has committed it. The cleanup after it may fail, for instance on a
full disk, or be interrupted: the file ``.changing`` then remains, and the next access cleans up.

This module does not import torch.
"""

import errno
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError, SharedFilesWarning
from ...datasets.files import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    create_private,
    is_shared,
    make_private,
    write_atomically,
)
from ...heads.face_embedding.threshold import VERIFICATION_METADATA, Threshold

GALLERY_FORMAT = 1
METADATA_FILE = "gallery.json"


class GalleryMetadata(NamedTuple):
    """Properties that all faces of a gallery share."""

    model: dict[str, Any]
    """Plain data that identifies the model of the embeddings."""
    dimension: int
    """Length of an embedding."""
    threshold: Threshold | None
    """As measured with the model, with its errors; None where it was not."""


def write_metadata(folder: Path, metadata: GalleryMetadata) -> None:
    """Write the metadata file atomically, for its owner alone."""
    threshold = metadata.threshold
    content = {
        "format": GALLERY_FORMAT,
        "model": metadata.model,
        "dimension": metadata.dimension,
        VERIFICATION_METADATA: threshold.to_metadata() if threshold else None,
    }
    write_atomically(folder / METADATA_FILE, json.dumps(content, indent=1).encode())
    make_private(folder / METADATA_FILE)


def read_metadata(folder: Path) -> GalleryMetadata:
    """Read and check the metadata file.

    Raises:
        DataError: There is no gallery, it has another format, or the file is damaged.
    """
    path = folder / METADATA_FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        advice = "`mobilevision gallery enroll` makes one."
        raise DataError(f"{folder}: no gallery. {advice}") from error
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise _damaged(path, f"is not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"holds a {type(content).__name__} instead of an object")
    if content.get("format") != GALLERY_FORMAT:
        raise DataError(
            f"{path}: a gallery of format {content.get('format')}, but this version reads format "
            f"{GALLERY_FORMAT}. Enroll the people again in another folder."
        )
    model, dimension = content.get("model"), content.get("dimension")
    if not isinstance(model, dict):
        raise _damaged(path, f"has the model {model!r}, not an object")
    if type(dimension) is not int or dimension < 1:
        raise _damaged(path, f"has the dimension {dimension!r}, not a positive integer")
    return GalleryMetadata(model, dimension, _threshold(path, content))


def _threshold(path: Path, content: dict[str, Any]) -> Threshold | None:
    measured = content.get(VERIFICATION_METADATA)
    if measured is None and (old := content.get("threshold")) is not None:
        if not isinstance(old, list) or len(old) != 2:  # of the first galleries
            raise _damaged(path, f"has the threshold {old!r}, not [similarity, FAR]")
        measured = dict(zip(("threshold", "far"), old, strict=True))
    try:
        return Threshold.from_metadata(measured)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: damaged, {what}. Restore the file from a backup, or enroll the people again in "
        "another folder."
    )


_TABLE = "faces"
_TABLE_FOLDER = f"{_TABLE}.lance"
_LOCK_FILE = ".lock"
_MARK_FILE = ".changing"
_OWN_FILES = (METADATA_FILE, _TABLE_FOLDER, _LOCK_FILE, _MARK_FILE)
_LOCK_SECONDS = 120.0
_RANDOM_ID_LENGTH = 32
"""Older galleries have random ids of this length instead of hashes of the content."""
_SAME_FACE = 0.9999
"""Minimum cosine of two embeddings of one image; rounding differs between devices and batches."""
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class Match(NamedTuple):
    """A candidate person for a face."""

    name: str
    similarity: float
    """Cosine similarity to the person's nearest face, in [-1, 1]."""


class Enrolled(NamedTuple):
    """The result of an enrollment."""

    added: int
    """Number of new faces."""
    known: int
    """Number of faces that the person already had, or that were given twice."""
    others: dict[int, str]
    """Position of a face that was not added -> the other person to whom it belongs."""
    total: int
    """Number of faces that the person has now."""


class Gallery:
    """A folder with the embeddings of people, private to its owner.

    If others can read the gallery, opening it removes their permissions and gives a warning.

    Args:
        folder: The gallery; see ``create``.

    Attributes:
        model: Plain data that identifies the model of the embeddings.
        dimension: Length of an embedding.
        threshold: As measured with the model; None where it was not.

    Raises:
        DataError: There is none, it is damaged or has another format, or LanceDB is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lancedb, self._arrow, self._filelock = _libraries()
        self.model, self.dimension, self.threshold = read_metadata(self.folder)
        _restrict_access(self.folder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: Mapping[str, Any],
        dimension: int,
        threshold: Threshold | None = None,
    ) -> "Gallery":
        """Open a gallery for a model; create it if there is none. See the class for the arguments.

        A threshold that was measured since takes the place of the gallery's.

        Raises:
            DataError: As for the class, or the gallery belongs to another model, or the folder
                holds something else.
        """
        folder = Path(folder)
        filelock = _libraries()[2]
        _make_folder(folder)
        with _locked(filelock, folder):
            if not (folder / METADATA_FILE).exists():
                write_metadata(folder, GalleryMetadata(dict(model), dimension, threshold))
        gallery = cls(folder)
        gallery.check_model(model)
        if threshold is not None and threshold != gallery.threshold:
            with _locked(filelock, folder):
                write_metadata(folder, GalleryMetadata(gallery.model, gallery.dimension, threshold))
            gallery.threshold = threshold
        return gallery

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Check that a model is the gallery's: embeddings of different models are incomparable.

        Raises:
            DataError: It is another one.
        """
        if dict(model) != self.model:
            raise DataError(
                f"{self.folder}: a gallery of {self.model}, but this model is {dict(model)}. Use "
                "that one, or enroll the people again in another folder."
            )

    def enroll(
        self, name: str, embeddings: np.ndarray, keys: Sequence[str] | None = None
    ) -> Enrolled:
        """Add faces of a person; they are on disk when this returns.

        Enrolling a face twice changes nothing, so an interrupted call may be repeated. A face that
        already belongs to another person stays with them.

        Args:
            name: Name of the person; not empty.
            embeddings: (N, D), of any length except zero.
            keys: A key for each embedding that identifies the face, such as a hash of its image; by
                default a hash of the embedding, which then has to match to the last bit.

        Returns:
            How many faces were added, and why the others were not.

        Raises:
            DataError: The embeddings have another dimension, length zero or are not finite, the
                name is empty or not valid Unicode, or the numbers of keys and embeddings differ.
        """
        vectors = self._unit(embeddings)
        check_name(name)
        if keys is None:
            keys = [hashlib.sha256(vector.tobytes()).hexdigest() for vector in vectors]
        if len(keys) != len(vectors):
            raise DataError(f"{len(keys)} keys for {len(vectors)} embeddings: one for each")
        ids = [self._id(key) for key in keys]
        with self._changes() as table:
            owners = self._owners(table)
            self._replace_random_ids(table, owners, ids, vectors)
            others = {
                index: owners[face]
                for index, face in enumerate(ids)
                if owners.get(face, name) != name
            }
            fresh = {face: index for index, face in enumerate(ids) if face not in owners}
            if fresh:
                table.add(self._rows(name, list(fresh), vectors[list(fresh.values())]))
        total = sum(owner == name for owner in owners.values()) + len(fresh)
        return Enrolled(len(fresh), len(ids) - len(fresh) - len(others), others, total)

    def identify(self, embeddings: np.ndarray, count: int = 1) -> list[list[Match]]:
        """Find the people nearest to each face, at any distance.

        Compare the similarity with a threshold. The probability that a stranger reaches it grows
        with the gallery: about the threshold's FAR times the number of people.

        Args:
            embeddings: (N, D), of any length except zero.
            count: Number of people for each face, at least 1.

        Returns:
            The matches of each face, nearest first; fewer if the gallery has fewer people.

        Raises:
            DataError: As for ``enroll``, or ``count`` is out of range.
        """
        vectors = self._unit(embeddings)
        if count < 1:
            raise DataError(f"count={count}: at least 1")
        with self._reading() as table:
            total = table.count_rows() if table is not None else 0
            if not total:
                return [[] for _ in vectors]
            return [self._nearest(table, vector, count, total) for vector in vectors]

    def people(self) -> dict[str, int]:
        """Return the number of faces of each person, sorted by name."""
        with self._reading() as table:
            names = Counter(self._owners(table).values()) if table is not None else {}
        return dict(sorted(names.items()))

    def remove(self, name: str, keys: Sequence[str] | None = None) -> int:
        """Remove a person. When this returns, no file of the gallery has the faces or the name.

        With keys, remove only the person's faces that were enrolled with them.

        An interrupted removal may leave traces: remove the person once more, even if the gallery
        then reports that there is nobody of that name. Copies elsewhere, such as backups and
        snapshots of the disk, are not removed.

        Returns:
            How many faces were removed.

        Raises:
            DataError: There is no such person or none of these faces, or traces of the faces could
                not be deleted, for instance on a full disk.
        """
        with self._changes() as table:
            own = {face for face, owner in self._owners(table).items() if owner == name}
            if not own:  # leaving `_changes` still cleans up after an interrupted removal
                raise DataError(
                    f"{self.folder}: has nobody called {name!r}; see `mobilevision gallery list`"
                )
            gone = own if keys is None else own & set(map(self._id, keys))
            if not gone:
                raise DataError(
                    f"{self.folder}: {name} was not enrolled with these images. They count as the "
                    "same if their content is; without images the whole person is removed."
                )
            reader, others = self._arrow.RecordBatchReader, self._others(table, gone)
            rest = reader.from_batches(table.schema, others)
            self._lancedb.connect(self.folder).create_table(_TABLE, rest, mode="overwrite")
            table.checkout_latest()
            if not self._finish(table):
                raise DataError(
                    f"{self.folder}: {name} was removed, but older files with the faces could not "
                    "be deleted. Make room on the disk, then remove the person once more."
                )
            return len(gone)

    @property
    def _mark(self) -> Path:
        return self.folder / _MARK_FILE

    @contextmanager
    def _changes(self) -> Iterator[Any]:
        """Open the table for changes, exclusively.

        Cleaning up after the body raises nothing, as its changes are committed by then.
        """
        with _locked(self._filelock, self.folder), self._damage_named():
            create_private(self._mark)
            table = self._opened()
            try:
                yield table
            finally:
                if self._mark.exists():
                    self._finish(table)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """Open the table, None if there is none yet; also on a read-only disk."""
        with _locked(self._filelock, self.folder, reading=True) as locked, self._damage_named():
            table = self._opened() if self._has_table else None
            if locked and table is not None and self._mark.exists():
                self._finish(table)
            yield table

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Report files that Lance cannot read; errors of the operating system pass unchanged."""
        try:
            yield
        except Exception as error:  # Lance raises many kinds
            text = str(error)
            if "lance error" not in text or "(os error" in text:
                raise
            raise _damaged(self.folder / _TABLE_FOLDER, text) from error

    @property
    def _has_table(self) -> bool:
        return any(self.folder.glob(f"{_TABLE_FOLDER}/_versions/*.manifest"))

    def _opened(self) -> Any:
        database = self._lancedb.connect(self.folder)
        if not self._has_table:
            return database.create_table(_TABLE, schema=self._schema(), exist_ok=True)
        table = database.open_table(_TABLE)
        if table.schema.names != self._schema().names:
            raise _damaged(self.folder / _TABLE_FOLDER, f"has the columns {table.schema.names}")
        length = table.schema.field("vector").type.list_size
        if length != self.dimension:
            raise DataError(
                f"{self.folder / METADATA_FILE}: damaged, has the dimension {self.dimension}, but "
                f"the faces have {length} numbers. Restore the file from a backup, or write "
                f"{length}."
            )
        return table

    def _finish(self, table: Any) -> bool:
        """Keep only the newest version on disk; return whether that and its mark succeeded."""
        try:
            self._tidy(table)
            self._mark.unlink(missing_ok=True)
        except Exception:  # Lance raises many kinds, and the change itself is done
            return False
        finally:
            with suppress(OSError):  # the folder is private anyway
                make_private(self.folder / _TABLE_FOLDER)
        return True

    def _schema(self) -> Any:
        arrow = self._arrow
        text, vector = arrow.string(), arrow.list_(arrow.float32(), self.dimension)
        return arrow.schema([("id", text), ("name", text), ("vector", vector)])

    def _id(self, key: str) -> str:
        """Return the id of a face, which depends on the model and the content alone."""
        model = json.dumps(self.model, sort_keys=True)
        return hashlib.sha256(f"{model}\n{key}".encode()).hexdigest()

    def _rows(self, name: str, ids: Sequence[str], vectors: np.ndarray) -> Any:
        arrow = self._arrow
        listed = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.ravel()), self.dimension)
        return arrow.table([ids, [name] * len(ids), listed], schema=self._schema())

    def _replace_random_ids(
        self, table: Any, owners: dict[str, str], ids: Sequence[str], vectors: np.ndarray
    ) -> None:
        """Replace the random ids of older galleries by the ids of the same faces in ``vectors``."""
        if not len(ids) or all(len(face) != _RANDOM_ID_LENGTH for face in owners):
            return
        new_ids: dict[str, str] = {}
        for batch in table.search().select(["id", "vector"]).to_batches():
            stored = batch.column("vector").flatten().to_numpy().reshape(-1, self.dimension)
            same = stored @ vectors.T >= _SAME_FACE
            for old, row in zip(batch.column("id").to_pylist(), same, strict=True):
                if len(old) == _RANDOM_ID_LENGTH and row.any():
                    new_ids.setdefault(ids[int(row.argmax())], old)
        for new, old in new_ids.items():
            if new not in owners:
                table.update(where=f"id = '{old}'", values={"id": new})
                owners[new] = owners.pop(old)

    def _others(self, table: Any, gone: set[str]) -> Iterator[Any]:
        for batch in table.search().to_batches():
            faces = batch.column("id").to_pylist()
            kept = batch.filter(self._arrow.array([face not in gone for face in faces]))
            yield kept.select(table.schema.names).cast(table.schema)

    def _tidy(self, table: Any) -> None:
        """Delete all versions but the newest from the disk."""
        with warnings.catch_warnings():
            # It warns about other processes that have the table open; the lock is held.
            warnings.simplefilter("ignore", UserWarning)
            table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    @staticmethod
    def _owners(table: Any) -> dict[str, str]:
        """Return the name of the person for the id of each face."""
        rows = table.search().select(["id", "name"]).to_list()
        return {row["id"]: row["name"] for row in rows}

    @staticmethod
    def _nearest(table: Any, vector: np.ndarray, count: int, total: int) -> list[Match]:
        """Find the nearest people; one with many faces may fill the first rows of a search."""
        rows = 8 * count
        while True:
            search = table.search(vector).distance_type("cosine").select(["name", "_distance"])
            best: dict[str, float] = {}
            for row in search.limit(rows).to_list():
                best.setdefault(row["name"], 1.0 - row["_distance"])
            if len(best) >= count or rows >= total:
                return [Match(name, value) for name, value in list(best.items())[:count]]
            rows *= 8

    def _unit(self, embeddings: np.ndarray) -> np.ndarray:
        vectors = np.asarray(embeddings, dtype=np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DataError(
                f"embeddings of shape {vectors.shape}: the gallery's have {self.dimension} numbers"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise DataError("an embedding has length zero or is not finite: compute it again")
        return (vectors / lengths).astype(np.float32)


def _make_folder(folder: Path) -> None:
    """Create the folder of a gallery, or check that it holds nothing else."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{folder}: a file is in the way; name another folder") from error
    if (folder / METADATA_FILE).exists():
        return
    names = {path.name for path in folder.iterdir()}
    if _TABLE_FOLDER in names:
        raise DataError(
            f"{folder / METADATA_FILE}: missing; it names the model of the faces. Restore it from "
            "a backup, or enroll the people again in another folder."
        )
    if others := sorted(name for name in names if not name.startswith(".")):
        raise DataError(
            f"{folder}: holds other things, such as {others[0]!r}. A gallery is a private folder "
            "of its own: name one that is empty or absent."
        )
    _restrict_access(folder)


def _restrict_access(folder: Path) -> None:
    """Remove the permissions of others from a gallery that has any, with a warning."""
    if not is_shared(folder):
        return
    try:
        folder.chmod(PRIVATE_FOLDER)
        make_private(*(folder / name for name in _OWN_FILES))
        what = "only you can from now on"
    except OSError as error:
        what = f"that could not be changed ({error.strerror}); see to it that only you can"
    message = f"{folder}: others could read these faces; {what}"
    warnings.warn(message, SharedFilesWarning, stacklevel=3)


@contextmanager
def _locked(filelock: Any, folder: Path, reading: bool = False) -> Iterator[bool]:
    """Hold the gallery's lock and yield whether it is held; a read-only disk is read without."""
    lock = filelock.FileLock(folder / _LOCK_FILE, timeout=_LOCK_SECONDS, mode=PRIVATE_FILE)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise DataError(
            f"{folder}: another process has used this gallery for {_LOCK_SECONDS:g} s; try again"
        ) from error
    except OSError as error:
        if not reading or error.errno not in _UNWRITABLE:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _libraries() -> tuple[Any, Any, Any]:
    # Otherwise Lance reports on stderr that it creates a table.
    os.environ.setdefault("LANCE_LOG", "error")
    try:
        import filelock
        import lancedb
        import pyarrow
    except ImportError as error:
        advice = "pip install 'mobilevision[gallery]'"
        raise DataError(f"a gallery needs {error.name}: {advice}") from error
    return lancedb, pyarrow, filelock


def accepted(matches: Sequence[Match], threshold: float) -> list[Match]:
    """Return the matches that reach the threshold."""
    return [match for match in matches if match.similarity >= threshold]


def check_name(name: str) -> None:
    """Check that the name of a person can be stored.

    Raises:
        DataError: It is empty, or has bytes that are not UTF-8, as file names may.
    """
    if not name.strip():
        raise DataError("a person needs a name")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name {name!r} is not valid Unicode; type it again") from error
