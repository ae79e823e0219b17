"""What `mobilevision embed` has done so far: on disk, in order, for any number of files.

A `Journal` keeps its keys in memory, which is too much for a million files; here SQLite has them.
Free of torch.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files.input_files import InputFile
from ..files.private import create_private

STORE_FORMAT = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS work (content TEXT);
CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, rows INTEGER, numbers BLOB) WITHOUT ROWID;
DROP TABLE IF EXISTS listing;
CREATE TABLE listing (
    position INTEGER PRIMARY KEY, path TEXT UNIQUE, name TEXT, key TEXT, fault TEXT);
"""


class Listed(NamedTuple):
    """A file of this run."""

    position: int
    path: Path
    key: str
    """Another size or time of change makes it another file."""


class Counts(NamedTuple):
    """What a run came to, earlier runs included."""

    files: int
    done: int
    rows: int
    empty: int
    """Files that are done and have no row."""
    faults: int


class EmbeddingStore:
    """An SQLite file: the files of this run, and the rows of each file that is done.

    Rows may be embeddings of faces, which are biometric data: the file, and what SQLite writes
    beside it with the same rights, is its owner's alone. The table that is made of it is for
    others, too, and has the rights that the user's umask gives.

    What ``add`` was given is on the disk when it returns; a process that is killed leaves the
    state before or after it. Memory does not grow with the number of files.

    Args:
        path: The file; made where it is absent.
        work: What the rows depend on, such as the model and the options: plain data. If the file
            is of other work, it is begun anew.

    Attributes:
        begun_anew: Which parts of the work are not those of the file that was there.
    """

    def __init__(self, path: Path, work: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        create_private(path)
        self._connection = sqlite3.connect(path)
        try:
            self._connection.executescript(_TABLES)
            self.begun_anew = self._resume({"store": STORE_FORMAT, **work})
        except BaseException:
            self._connection.close()
            raise

    def _resume(self, work: dict[str, Any]) -> list[str]:
        row = self._connection.execute("SELECT content FROM work").fetchone()
        old = json.loads(row[0]) if row else None
        if old == work:
            return []
        with self._connection:
            self._connection.execute("DELETE FROM done")
            self._connection.execute("DELETE FROM work")
            self._connection.execute("INSERT INTO work VALUES (?)", (json.dumps(work),))
        return [] if old is None else [name for name in work if old.get(name) != work[name]]

    def __enter__(self) -> "EmbeddingStore":
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._connection.close()

    def list_files(self, files: Iterable[tuple[InputFile, str, str]]) -> None:
        """Say which files this run is about: the file, its name in the table, and its key.

        A path that comes twice is one file.
        """
        rows = ((str(file.path), name, key) for file, name, key in files)
        with self._connection:
            self._connection.executemany(
                "INSERT OR IGNORE INTO listing (path, name, key) VALUES (?, ?, ?)", rows
            )

    def pending(self) -> Iterator[Listed]:
        """The listed files that are not done, in order; those that failed in this run apart.

        The list is read in portions, so that what is done in between may be added.
        """
        last = 0
        while rows := self._connection.execute(
            "SELECT position, path, key FROM listing WHERE position > ? AND fault IS NULL "
            "AND key NOT IN (SELECT key FROM done) ORDER BY position LIMIT 256",
            (last,),
        ).fetchall():
            for position, path, key in rows:
                yield Listed(position, Path(path), key)
            last = rows[-1][0]

    def add(
        self, rows: Sequence[tuple[Listed, np.ndarray]], faults: Sequence[tuple[Listed, str]] = ()
    ) -> None:
        """Enter files that are done, with their rows (K, N) float32, and files that failed."""
        values = [
            (file.key, len(numbers), np.ascontiguousarray(numbers, dtype="<f4").tobytes())
            for file, numbers in rows
        ]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", values)
            self._connection.executemany(
                "UPDATE listing SET fault = ? WHERE position = ?",
                [(message, file.position) for file, message in faults],
            )

    def results(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and rows (K, N) float32 of the listed files that are done and have any, in order."""
        for name, count, numbers in self._connection.execute(
            "SELECT name, rows, numbers FROM listing JOIN done USING (key) WHERE rows > 0 "
            "ORDER BY position"
        ):
            yield name, np.frombuffer(numbers, dtype="<f4").reshape(count, -1)

    def faults(self) -> Iterator[str]:
        """A message for each listed file that failed in this run, in order."""
        for (message,) in self._connection.execute(
            "SELECT fault FROM listing WHERE fault IS NOT NULL ORDER BY position"
        ):
            yield message

    def counts(self) -> Counts:
        """Count files, rows and faults of this run's files."""
        row = self._connection.execute(
            "SELECT count(*), count(done.key), coalesce(sum(rows), 0), "
            "coalesce(sum(rows = 0), 0), count(fault) FROM listing LEFT JOIN done USING (key)"
        ).fetchone()
        return Counts(*row)
