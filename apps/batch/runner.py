"""Run a job over any number of files: resumable, with a progress bar and a count of faults."""

import hashlib
import json
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import create_private
from ...datasets.images import ImageFile
from .inputs import InputFile, walk_files

R = TypeVar("R")
T = TypeVar("T")

_STORE_FORMAT = 2

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
    """The name in the output."""
    key: str
    """See ``file_key``."""


class Made(NamedTuple):
    """The result of a file."""

    rows: int
    """Number of rows, such as faces; 0 is a file that is done and has none."""
    content: bytes
    """The rows, encoded by the job."""


class Counts(NamedTuple):
    """Counts of this run's files, with the results of earlier runs."""

    files: int
    done: int
    rows: int
    empty: int
    """Files that are done and have no row."""
    faults: int


class ProgressStore:
    """An SQLite file with the files of this run and the result of each file that is done.

    Only its owner may read the file and SQLite's temporary files, because rows may be embeddings of
    faces, which are biometric data. The table that is made of it is meant for others, too, and has
    the permissions of the user's umask.

    The arguments of ``add`` are on the disk when it returns; a process that is killed leaves the
    state before or after it. Memory does not grow with the number of files.

    Args:
        path: The file, which is created if it is absent. None keeps everything in memory.
        work: Plain data that the results depend on, such as the model and the options. A file of
            other work is emptied.

    Attributes:
        begun_anew: The entries of ``work`` that differ from those of the existing file.
    """

    def __init__(self, path: Path | None, work: dict[str, Any]) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            create_private(path)
        self._connection = sqlite3.connect(path or ":memory:")
        try:
            self._connection.executescript(_TABLES)
            self.begun_anew = self._resume({"store": _STORE_FORMAT, **work})
        except BaseException:
            self._connection.close()
            raise

    def _resume(self, work: dict[str, Any]) -> list[str]:
        row = self._connection.execute("SELECT content FROM work").fetchone()
        changed = []
        if row:
            try:
                old = json.loads(row[0])
            except (TypeError, ValueError, RecursionError):
                old = {}
            if old == work:
                return []
            old = old if isinstance(old, dict) else {}  # a damaged file counts as other work
            changed = [name for name in work if old.get(name) != work[name]]
        with self._connection:
            self._connection.execute("DELETE FROM made")
            self._connection.execute("DELETE FROM work")
            self._connection.execute("INSERT INTO work VALUES (?)", (json.dumps(work),))
        return changed

    def __enter__(self) -> "ProgressStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def list_files(self, files: Iterable[InputFile]) -> None:
        """Add the files of this run; a path that comes twice is one file."""
        rows = ((str(file.path), file.name, file_key(file.path)) for file in files)
        with self._connection:
            self._connection.executemany(
                "INSERT OR IGNORE INTO listing (path, name, key) VALUES (?, ?, ?)", rows
            )

    def pending(self) -> Iterator[Listed]:
        """Yield the listed files that are not done and have not failed in this run, in order.

        The list is read in portions, so that results may be added in between.
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
        """Add files that are done, with their results, and files that failed, with messages."""
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
        """Yield the listed files that are done, in order, with their results."""
        for position, path, name, key, rows, content in self._connection.execute(
            "SELECT position, path, name, key, rows, content FROM listing JOIN made USING (key) "
            "ORDER BY position"
        ):
            yield Listed(position, Path(path), name, key), Made(rows, content)

    def faults(self) -> Iterator[str]:
        """Yield a message for each listed file that failed in this run, in order."""
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


_NAMED_FAULTS = 100
_DISK_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""SQLite errors that are caused by the disk or another process; others mean a damaged file."""


class Job(ABC):
    """Makes a result of each file, independently of process and machine.

    Attributes:
        depends: Plain data that the results depend on, such as the model and the options.
        files_at_once: Number of files between two writes to the disk, which is the most that is
            lost if the process is killed.
    """

    depends: dict[str, Any]
    files_at_once: int = 64

    @abstractmethod
    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """Yield for each file in order its result, or the error if it cannot be used."""

    def begin(self, store: ProgressStore) -> None:  # noqa: B027 (most jobs need nothing)
        """Prepare the job, knowing which files are done, before the first file."""


@contextmanager
def run_over_files(
    files: Iterable[InputFile], job: Job, progress: Path | None = None
) -> Iterator[ProgressStore]:
    """Run a job over all files that are not done, and yield the results of all files.

    Memory does not grow with the number of files. A run that was stopped or killed is continued.
    Files whose size or modification time has changed are done again, and faulty ones are tried
    again.

    Args:
        files: The files, with their names in the output; consumed once.
        job: Makes a result of each file.
        progress: The file that keeps the results; None keeps them in memory.

    Raises:
        DataError: An argument of the command line matches no file, or the progress file is damaged.
    """
    try:
        with ProgressStore(progress, job.depends) as store:
            store.list_files(files)
            _print_state(store)
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


def named_files(inputs: Sequence[str]) -> Iterator[InputFile]:
    """Yield the images of a command line with their names in a table.

    The files of a single folder are named relative to it. The names for several arguments are the
    paths as given, because names relative to two folders may be equal.

    Args:
        inputs: Files, folders and patterns; videos are skipped.

    Raises:
        DataError: An argument matches no file.
    """
    alone = len(inputs) == 1 and Path(inputs[0]).is_dir()
    for file in walk_files(inputs):
        if not file.is_video:
            yield file if alone else InputFile(file.path, file.path.as_posix())


def over_images(
    files: Iterable[Listed],
    predict: Callable[[Iterator[ImageFile]], Iterator[R | DataError]],
    make: Callable[[Listed, R], T],
) -> Iterator[tuple[Listed, T | DataError]]:
    """Predict the images of files, and make something of each prediction.

    Args:
        files: The files, consumed lazily.
        predict: For instance ``Predictor.stream`` with its options.
        make: Called for each file that could be read.

    Yields:
        Each file, in order, with the return value of ``make``, or the error if it cannot be read.
    """
    listed, read = tee(files)
    predictions = predict(ImageFile(file.path) for file in read)
    for file, prediction in zip(listed, predictions, strict=True):
        failed = isinstance(prediction, DataError)
        yield file, prediction if failed else make(file, prediction)


def file_key(path: Path) -> str:
    """Return the identity of a file: another size or modification time makes it another file."""
    try:
        status = path.stat()
    except OSError:  # the job reports what is wrong
        return f"{path.absolute()}|absent"
    return f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def pack(rows: np.ndarray) -> Made:
    """Encode rows (K, N) float32."""
    return Made(len(rows), np.ascontiguousarray(rows, dtype="<f4").tobytes())


def unpack(made: Made) -> np.ndarray:
    """Decode the rows (K, N) float32 of ``pack``; K is at least 1."""
    return np.frombuffer(made.content, dtype="<f4").reshape(made.rows, -1)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, such as a model that results depend on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def print_faults(store: ProgressStore, count: int) -> None:
    """Print the messages of the files that could not be used."""
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
        write()  # also after Ctrl-C, so that no result is lost


def _print_state(store: ProgressStore) -> None:
    done = store.counts().done
    if store.begun_anew:
        changed = ", ".join(name.replace("_", " ") for name in store.begun_anew)
        print(f"{store.path}: of other work ({changed}); beginning anew", file=sys.stderr)
    elif done:
        print(f"{store.path}: {done:,} files are done already", file=sys.stderr)
