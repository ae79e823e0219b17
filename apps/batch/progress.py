"""What a run over files has done so far: on disk, in order, for any number of files.

SQLite keeps the list of files and what was made of each, so that memory does not grow with their
number, and a run that was stopped or killed goes on where it was. Free of torch.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..private_files import create_private
from .inputs import InputFile

STORE_FORMAT = 2

_TABLES = """
CREATE TABLE IF NOT EXISTS work (content TEXT);
CREATE TABLE IF NOT EXISTS made (key TEXT PRIMARY KEY, rows INTEGER, content BLOB) WITHOUT ROWID;
DROP TABLE IF EXISTS listing;
DROP TABLE IF EXISTS done;
CREATE TABLE listing (
    position INTEGER PRIMARY KEY, path TEXT UNIQUE, name TEXT, key TEXT, fault TEXT);
"""


class Listed(NamedTuple):
    """A file of this run."""

    position: int
    """From 1, in the order of the list."""
    path: Path
    name: str
    """In what is written."""
    key: str
    """Another size or time of change makes it another file."""


class Made(NamedTuple):
    """What was made of a file."""

    rows: int
    """Such as faces; 0 is a file that is done and has none."""
    content: bytes
    """As the job packed it."""


class Counts(NamedTuple):
    """What a run came to, earlier runs included."""

    files: int
    done: int
    rows: int
    empty: int
    """Files that are done and have no row."""
    faults: int


class ProgressStore:
    """An SQLite file: the files of this run, and what was made of each file that is done.

    Rows may be embeddings of faces, which are biometric data: the file, and what SQLite writes
    beside it with the same rights, is its owner's alone. The table that is made of it is for
    others, too, and has the rights that the user's umask gives.

    What ``add`` was given is on the disk when it returns; a process that is killed leaves the
    state before or after it. Memory does not grow with the number of files.

    Args:
        path: The file; made where it is absent. None keeps everything in memory.
        work: What is made depends on it, such as the model and the options: plain data. If the file
            is of other work, it is begun anew.

    Attributes:
        begun_anew: Which parts of the work are not those of the file that was there.
    """

    def __init__(self, path: Path | None, work: dict[str, Any]) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            create_private(path)
        self._connection = sqlite3.connect(path or ":memory:")
        try:
            self._connection.executescript(_TABLES)
            self.begun_anew = self._resume({"store": STORE_FORMAT, **work})
        except BaseException:
            self._connection.close()
            raise

    def _resume(self, work: dict[str, Any]) -> list[str]:
        row = self._connection.execute("SELECT content FROM work").fetchone()
        old = _parsed(row[0]) if row else None
        if old == work:
            return []
        with self._connection:
            self._connection.execute("DELETE FROM made")
            self._connection.execute("DELETE FROM work")
            self._connection.execute("INSERT INTO work VALUES (?)", (json.dumps(work),))
        return [] if old is None else [name for name in work if old.get(name) != work[name]]

    def __enter__(self) -> "ProgressStore":
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
            "SELECT position, path, name, key FROM listing WHERE position > ? AND fault IS NULL "
            "AND key NOT IN (SELECT key FROM made) ORDER BY position LIMIT 256",
            (last,),
        ).fetchall():
            for position, path, name, key in rows:
                yield Listed(position, Path(path), name, key)
            last = rows[-1][0]

    def add(
        self, made: Sequence[tuple[Listed, Made]], faults: Sequence[tuple[Listed, str]] = ()
    ) -> None:
        """Enter files that are done, with what was made of them, and files that failed."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO made VALUES (?, ?, ?)",
                [(file.key, each.rows, each.content) for file, each in made],
            )
            self._connection.executemany(
                "UPDATE listing SET fault = ? WHERE position = ?",
                [(message, file.position) for file, message in faults],
            )

    def results(self) -> Iterator[tuple[Listed, Made]]:
        """The listed files that are done, in order, and what was made of each."""
        for position, path, name, key, rows, content in self._connection.execute(
            "SELECT position, path, name, key, rows, content FROM listing JOIN made USING (key) "
            "ORDER BY position"
        ):
            yield Listed(position, Path(path), name, key), Made(rows, content)

    def faults(self) -> Iterator[str]:
        """A message for each listed file that failed in this run, in order."""
        for (message,) in self._connection.execute(
            "SELECT fault FROM listing WHERE fault IS NOT NULL ORDER BY position"
        ):
            yield message

    def counts(self) -> Counts:
        """Count files, rows and faults of this run's files."""
        row = self._connection.execute(
            "SELECT count(*), count(made.key), coalesce(sum(rows), 0), "
            "coalesce(sum(rows = 0), 0), count(fault) FROM listing LEFT JOIN made USING (key)"
        ).fetchone()
        return Counts(*row)


def _parsed(text: Any) -> dict[str, Any]:
    """What a file says its work is; nothing where it is damaged, so that it is begun anew."""
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
