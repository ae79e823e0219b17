"""Run a job over any number of files: resumable, with a progress bar, counting every fault."""

import hashlib
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from .inputs import InputFile, walk_files
from .progress import Counts, Listed, Made, ProgressStore

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
