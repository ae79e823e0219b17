"""Run a job over any number of files: resumable, with a progress bar, counting every fault."""

import hashlib
import json
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import create_private
from .inputs import InputFile, walk_files

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


Named = tuple[InputFile, str, str]
"""A file, its name in what is written, and its key; see ``file_key``."""

_NAMED_FAULTS = 100
_DISK_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Of SQLite, which say something of the disk or of another process; others say: a damaged file."""


class Job(ABC):
    """Makes something of each file. Nothing in it is bound to one process or machine.

    Attributes:
        depends: What the results depend on, such as the model and the options: plain data.
        files_at_once: Files between two writes to the disk, or what a kill loses at most.
    """

    depends: dict[str, Any]
    files_at_once: int = 64

    @abstractmethod
    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """Yield for each file in order what was made of it, or why it cannot be used."""

    def begin(self, store: ProgressStore) -> None:  # noqa: B027 (most jobs need nothing)
        """Look at what is done and what is not, before the first file."""


@contextmanager
def run_over_files(
    files: Iterable[Named], job: Job, progress: Path | None = None
) -> Iterator[ProgressStore]:
    """Run a job over all files that are not done, and hand out what was made of each.

    Memory does not grow with the number of files. A run that was stopped or killed goes on where
    it was; files whose size or time of change is another are done again, and faulty ones are tried
    again.

    Args:
        files: Read once.
        job: What to make of a file.
        progress: Where it is kept what is done; None keeps it in memory.

    Raises:
        DataError: A word of the command line names nothing, or the file of what is done is
            damaged.
    """
    try:
        with ProgressStore(progress, job.depends) as store:
            store.list_files(files)
            _say_where_from(store)
            job.begin(store)
            _fill(store, job)
            yield store
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_ERRORS:
            raise
        raise DataError(
            f"{progress}: does not keep what a run has done, or is damaged ({error}). Delete it to "
            "begin anew."
        ) from error


def named_files(inputs: Sequence[str]) -> Iterator[Named]:
    """Images of a command line, their names in a table and their keys, one by one.

    The files of one folder are named relative to it. Where several words are given, names are the
    paths as they were given, because names relative to two folders may be the same.

    Args:
        inputs: Files, folders and patterns; videos are left aside.

    Raises:
        DataError: A word names nothing.
    """
    alone = len(inputs) == 1 and Path(inputs[0]).is_dir()
    for file in walk_files(inputs):
        if not file.is_video:
            name = file.name if alone else file.path.as_posix()
            yield file, name, file_key(file)


def file_key(file: InputFile) -> str:
    """What progress calls a file: another size or time of change makes it another file."""
    try:
        status = file.path.stat()
    except OSError:  # reading it says what is wrong
        return f"{file.path.absolute()}|absent"
    return f"{file.path.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def pack(rows: np.ndarray) -> Made:
    """Pack rows (K, N) float32 of numbers."""
    return Made(len(rows), np.ascontiguousarray(rows, dtype="<f4").tobytes())


def unpack(made: Made) -> np.ndarray:
    """Return the rows (K, N) float32 that were packed; K is at least 1."""
    return np.frombuffer(made.content, dtype="<f4").reshape(made.rows, -1)


def file_digest(path: Path) -> str:
    """The sha256 of a file, such as a model that results depend on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def print_summary(out: Path, store: ProgressStore) -> Counts:
    """Say what a run came to, and name its faults."""
    counts = store.counts()
    print(f"{counts.done:,} of {counts.files:,} files, {counts.rows:,} rows: {out}")
    if counts.empty:
        print(f"{counts.empty:,} files without a face have no row")
    print_faults(store, counts.faults)
    return counts


def print_faults(store: ProgressStore, count: int) -> None:
    """Name the files that could not be used."""
    if count:
        print(f"\n{count:,} files with faults:", *islice(store.faults(), _NAMED_FAULTS), sep="\n  ")
    if count > _NAMED_FAULTS:
        print(f"  and {count - _NAMED_FAULTS:,} more")


def _fill(store: ProgressStore, job: Job) -> None:
    counts = store.counts()
    made: list[tuple[Listed, Made]] = []
    faults: list[tuple[Listed, str]] = []

    def write() -> None:
        store.add(made, faults)
        made.clear()
        faults.clear()

    outcomes = job(store.pending())
    bar = tqdm(outcomes, total=counts.files, initial=counts.done, unit="file", smoothing=0.05)
    try:
        for file, outcome in bar:
            if isinstance(outcome, DataError):
                faults.append((file, str(outcome)))
            else:
                made.append((file, outcome))
            if len(made) + len(faults) >= job.files_at_once:
                write()
    finally:
        write()  # what is done when Ctrl-C comes stays done


def _say_where_from(store: ProgressStore) -> None:
    done = store.counts().done
    if store.begun_anew:
        changed = ", ".join(name.replace("_", " ") for name in store.begun_anew)
        print(f"{store.path}: of other work ({changed}); beginning anew", file=sys.stderr)
    elif done:
        print(f"{store.path}: {done:,} files are done already", file=sys.stderr)
