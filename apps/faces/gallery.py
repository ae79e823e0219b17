"""People and their face embeddings on disk: enrol, identify, list, remove.

The rows lie in a LanceDB table, which is searched exactly, without an index. LanceDB keeps what was
removed: in older versions of the table, and in its data files until a tenth of a file's rows is
gone. So a removal writes the other rows anew and takes the older versions away. That is only right
while nobody else has the table open, so every access holds the gallery's lock: processes take
turns.

Free of torch.
"""

import json
import os
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from .results import Threshold

GALLERY_FORMAT = 1
_TABLE = "faces"
_LOCK_SECONDS = 120.0


class Match(NamedTuple):
    """A person that a face may be."""

    name: str
    similarity: float
    """Cosine to the nearest of the person's faces, in [-1, 1]."""


class Gallery:
    """A folder with the embeddings of people.

    Args:
        folder: The gallery; see ``create``.

    Raises:
        DataError: There is none, it is of another format, or LanceDB is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lancedb, self._arrow, self._filelock = _libraries()
        try:
            facts = json.loads(self._facts_path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder}: no gallery. `mobilevision gallery enroll` makes one."
            ) from error
        except ValueError as error:
            raise DataError(f"{self._facts_path}: not readable ({error}); restore it") from error
        if facts.get("format") != GALLERY_FORMAT:
            raise DataError(
                f"{self.folder}: a gallery of format {facts.get('format')}, and this is for "
                f"{GALLERY_FORMAT}. Enrol the people anew in another folder."
            )
        self.model: dict[str, Any] = facts["model"]
        """What says which model the embeddings are of."""
        self.dimension: int = facts["dimension"]
        self.threshold = Threshold(*facts["threshold"]) if facts["threshold"] else None
        """As measured with the model; None where it was not."""

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: Mapping[str, Any],
        dimension: int,
        threshold: Threshold | None = None,
    ) -> "Gallery":
        """Open a gallery for a model, and make it where there is none.

        Args:
            folder: The gallery.
            model: Plain data that says which model it is.
            dimension: Length of its embeddings.
            threshold: As measured with it.

        Raises:
            DataError: As for the class, or the gallery is of another model.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(_libraries()[2], folder):
            if not (folder / "gallery.json").exists():
                facts = {
                    "format": GALLERY_FORMAT,
                    "model": dict(model),
                    "dimension": dimension,
                    "threshold": list(threshold) if threshold else None,
                }
                write_atomically(folder / "gallery.json", json.dumps(facts, indent=1).encode())
        gallery = cls(folder)
        gallery.check_model(model)
        return gallery

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Insist on the model of the gallery: embeddings of two models have nothing in common.

        Raises:
            DataError: It is another one.
        """
        if dict(model) != self.model:
            raise DataError(
                f"{self.folder}: a gallery of {self.model}, and this model is {dict(model)}. Take "
                "that one, or enrol the people anew in another folder."
            )

    def enroll(self, name: str, embeddings: np.ndarray) -> int:
        """Add faces of a person; they are on the disk when this returns.

        Args:
            name: Of the person; not empty.
            embeddings: (N, D), any length but zero.

        Returns:
            How many faces the person has now.

        Raises:
            DataError: The embeddings have another dimension, length zero or are not finite, or the
                name is empty.
        """
        vectors = self._unit(embeddings)
        if not name.strip():
            raise DataError("a person needs a name")
        with self._table(changes=True) as table:
            table.add(self._rows(name, vectors))
            self._tidy(table)
            return self._names(table)[name]

    def identify(self, embeddings: np.ndarray, count: int = 1) -> list[list[Match]]:
        """Find the people nearest to each face, however far they are.

        Compare the similarity with a threshold. The more people there are, the more often a
        stranger is near one of them: about the threshold's FAR times the number of people.

        Args:
            embeddings: (N, D), any length but zero.
            count: People for each face, at least 1.

        Returns:
            For each face its matches, the nearest first; fewer where the gallery has fewer people.

        Raises:
            DataError: As for ``enroll``, or ``count`` is out of its range.
        """
        vectors = self._unit(embeddings)
        if count < 1:
            raise DataError(f"count={count}: at least 1")
        with self._table() as table:
            total = table.count_rows()
            return [self._nearest(table, vector, count, total) for vector in vectors]

    def people(self) -> dict[str, int]:
        """Name -> number of faces, by name."""
        with self._table() as table:
            return dict(sorted(self._names(table).items()))

    def remove(self, name: str) -> int:
        """Remove a person. When this returns, no file of the gallery has the faces or the name.

        Of a removal that was interrupted there may be traces: remove the person once more, also
        where the gallery says that there is nobody of that name by then.

        Copies elsewhere, such as backups and snapshots of the disk, are out of its reach.

        Args:
            name: Of the person.

        Returns:
            How many faces were removed.

        Raises:
            DataError: There is no such person.
        """
        with self._table(changes=True) as table:
            names = self._names(table)
            if name not in names:
                self._tidy(table)  # whoever was being removed or enrolled when a process ended
                raise DataError(
                    f"{self.folder}: has nobody called {name!r}; see `mobilevision gallery list`"
                )
            database = self._lancedb.connect(self.folder)
            rest = self._arrow.RecordBatchReader.from_batches(
                table.schema, self._others(table, name)
            )
            self._tidy(database.create_table(_TABLE, rest, mode="overwrite"))
            return names[name]

    @property
    def _facts_path(self) -> Path:
        return self.folder / "gallery.json"

    @contextmanager
    def _table(self, changes: bool = False) -> Iterator[Any]:
        """The table, nobody else having it open; ends what a killed process has left undone."""
        mark = self.folder / ".changing"
        with _locked(self._filelock, self.folder):
            database = self._lancedb.connect(self.folder)
            table = database.create_table(_TABLE, schema=self._schema(), exist_ok=True)
            if mark.exists():
                self._tidy(table)
            if changes:
                mark.touch()
            yield table
            mark.unlink(missing_ok=True)

    def _schema(self) -> Any:
        arrow = self._arrow
        return arrow.schema(
            [
                arrow.field("id", arrow.string()),
                arrow.field("name", arrow.string()),
                arrow.field("vector", arrow.list_(arrow.float32(), self.dimension)),
            ]
        )

    def _rows(self, name: str, vectors: np.ndarray) -> Any:
        arrow = self._arrow
        ids = [uuid.uuid4().hex for _ in vectors]
        listed = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.ravel()), self.dimension)
        return arrow.table([ids, [name] * len(ids), listed], schema=self._schema())

    def _tidy(self, table: Any) -> None:
        """Leave the newest version alone on the disk."""
        with warnings.catch_warnings():
            # It warns of others who have the table open; the lock is held.
            warnings.simplefilter("ignore", UserWarning)
            table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def _others(self, table: Any, name: str) -> Iterator[Any]:
        for batch in table.search().to_batches():
            names = np.array(batch.column("name").to_pylist(), dtype=object)
            kept = batch.filter(self._arrow.array(names != name))
            yield kept.select(table.schema.names).cast(table.schema)

    @staticmethod
    def _names(table: Any) -> Counter[str]:
        names: Counter[str] = Counter()
        for batch in table.search().select(["name"]).to_batches():
            names.update(batch.column("name").to_pylist())
        return names

    @staticmethod
    def _nearest(table: Any, vector: np.ndarray, count: int, total: int) -> list[Match]:
        """The nearest people; a person with many faces may fill the first rows of a search."""
        rows = 8 * count
        while True:
            found = (
                table.search(vector)
                .distance_type("cosine")
                .select(["name", "_distance"])
                .limit(rows)
                .to_list()
            )
            best: dict[str, float] = {}
            for row in found:
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
            raise DataError("an embedding has length zero or is not finite: make it anew")
        return (vectors / lengths).astype(np.float32)


@contextmanager
def _locked(filelock: Any, folder: Path) -> Iterator[None]:
    lock = filelock.FileLock(folder / ".lock", timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise DataError(
            f"{folder}: another process has used this gallery for {_LOCK_SECONDS:g} s; try again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _libraries() -> tuple[Any, Any, Any]:
    # Lance tells on stderr that it makes a table where there is none.
    os.environ.setdefault("LANCE_LOG", "error")
    try:
        import filelock
        import lancedb
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"a gallery needs {error.name}: pip install 'mobilevision[gallery]'"
        ) from error
    return lancedb, pyarrow, filelock


def accepted(matches: Sequence[Match], threshold: float) -> list[Match]:
    """The matches that reach the threshold."""
    return [match for match in matches if match.similarity >= threshold]
