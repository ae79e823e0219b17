"""Run a job over any number of files: resumable, with a progress bar and a count of faults."""

import hashlib
import json
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice, tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from ...datasets.download import without_password
from ...datasets.errors import DataError
from ...datasets.files import create_private
from ...datasets.images import ImageAtUrl, ImageFile
from ..inference.predictor import ImageSource
from .inputs import InputFile, Kind, walk_files
from .showing import Showing
from .videos import Frame, Stream, StreamLostError, Video, ends_on_interrupt

R = TypeVar("R")
T = TypeVar("T")

_STORE_FORMAT = 3

_TABLES = """
CREATE TABLE IF NOT EXISTS work (content TEXT);
CREATE TABLE IF NOT EXISTS results (
    key TEXT, frame INTEGER, time_s REAL, rows INTEGER, content BLOB, PRIMARY KEY (key, frame)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS complete (key TEXT PRIMARY KEY) WITHOUT ROWID;
DROP TABLE IF EXISTS listing;
DROP TABLE IF EXISTS made;
CREATE TABLE listing (
    position INTEGER PRIMARY KEY, path TEXT, name TEXT, key TEXT, kind TEXT, address TEXT,
    fault TEXT, UNIQUE (path, address));
"""


class Listed(NamedTuple):
    """An input of this run."""

    position: int
    """From 1, in the order of the list."""
    path: Path
    name: str
    """The name in the output."""
    key: str
    """See ``file_key``."""
    kind: Kind = "image"
    address: str = ""
    """See ``InputFile``."""

    @property
    def image(self) -> ImageSource:
        """The image, not read yet."""
        return ImageAtUrl(self.address) if self.address else ImageFile(self.path)

    def open(self) -> Video | Stream:
        """Open the video or the stream; see there."""
        source = self.address or str(self.path)
        return Stream(source) if self.kind == "stream" else Video(source)


class Made(NamedTuple):
    """The result of an image, of a frame, or of a video as a whole."""

    rows: int
    """Number of rows, such as faces; 0 is a file that is done and has none."""
    content: bytes
    """The rows, encoded by the job."""
    frame: int = 0
    """Number of the frame, from 0."""
    time_s: float = 0.0
    """Time of the frame."""
    last: bool = True
    """Whether the file is done with it."""


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
    faces, which are biometric data. What is deleted is overwritten.

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
            self._connection.execute("PRAGMA secure_delete = ON")
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
            self._connection.execute("DELETE FROM results")
            self._connection.execute("DELETE FROM complete")
            self._connection.execute("DELETE FROM work")
            self._connection.execute("INSERT INTO work VALUES (?)", (json.dumps(work),))
        return changed

    def __enter__(self) -> "ProgressStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def list_files(self, files: Iterable[InputFile]) -> None:
        """Add the files of this run; a path that comes twice is one file."""
        rows = ((str(file.path), file.name, file_key(file), file.kind, file.address)
                for file in files)  # fmt: skip
        with self._connection:
            self._connection.executemany(
                "INSERT OR IGNORE INTO listing (path, name, key, kind, address) "
                "VALUES (?, ?, ?, ?, ?)",
                rows,
            )

    def has_frames(self) -> bool:
        """Return whether this run has videos or streams."""
        sql = "SELECT count(*) FROM listing WHERE kind <> 'image'"
        return bool(self._connection.execute(sql).fetchone()[0])

    def pending(self) -> Iterator[Listed]:
        """Yield the listed files that are not done and have not failed in this run, in order.

        The list is read in portions, so that results may be added in between.
        """
        last = 0
        while rows := self._connection.execute(
            f"SELECT {_LISTED} FROM listing WHERE position > ? AND fault IS NULL "
            "AND key NOT IN (SELECT key FROM complete) ORDER BY position LIMIT 256",
            (last,),
        ).fetchall():
            yield from (_listed(row) for row in rows)
            last = rows[-1][0]

    def add(
        self, made: Sequence[tuple[Listed, Made]], faults: Sequence[tuple[Listed, str]] = ()
    ) -> None:
        """Add files that are done, with their results, and files that failed, with messages."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)",
                [
                    (file.key, each.frame, each.time_s, each.rows, each.content)
                    for file, each in made
                    if each is not NO_MORE
                ],
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO complete VALUES (?)",
                [(file.key,) for file, each in made if each.last],
            )
            self._connection.executemany(
                "UPDATE listing SET fault = ? WHERE position = ?",
                [(message, file.position) for file, message in faults],
            )

    def results(self) -> Iterator[tuple[Listed, Made]]:
        """Yield the listed files that are done, in order, with their results, frame by frame."""
        for row in self._connection.execute(
            f"SELECT {_LISTED}, rows, content, frame, time_s FROM listing JOIN complete USING (key)"
            " JOIN results USING (key) ORDER BY position, frame"
        ):
            yield _listed(row[:6]), Made(*row[6:])

    def faults(self) -> Iterator[str]:
        """Yield a message for each listed file that failed in this run, in order."""
        for (message,) in self._connection.execute(
            "SELECT fault FROM listing WHERE fault IS NOT NULL ORDER BY position"
        ):
            yield message

    def counts(self) -> Counts:
        """Count files, rows and faults of this run's files."""
        row = self._connection.execute(
            "SELECT count(*), count(found), coalesce(sum(found), 0), coalesce(sum(found = 0), 0), "
            "count(fault) FROM listing LEFT JOIN (SELECT key, coalesce(sum(rows), 0) AS found "
            "FROM complete LEFT JOIN results USING (key) GROUP BY key) USING (key)"
        ).fetchone()
        return Counts(*row)


_LISTED = "position, path, name, key, kind, address"


def _listed(row: Sequence[Any]) -> Listed:
    position, path, *rest = row
    return Listed(position, Path(path), *rest)


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
        """Yield for each file in order its result, or the error if it cannot be used.

        A video may have a result for each frame, of which one is the ``last``; after that, the
        error of a stream that broke off.
        """

    def begin(self, store: ProgressStore) -> None:  # noqa: B027 (most jobs need nothing)
        """Prepare the job, knowing which files are done, before the first file."""


@contextmanager
def run_over_files(
    files: Iterable[InputFile],
    job: Job,
    progress: Path | None = None,
    each: Callable[[Listed, Made], None] | None = None,
) -> Iterator[ProgressStore]:
    """Run a job over all files that are not done, and yield the results of all files.

    Memory does not grow with the number of files. A run that was stopped or killed is continued.
    Files whose size or modification time has changed are done again, and faulty ones are tried
    again.

    Args:
        files: The files, with their names in the output; consumed once.
        job: Makes a result of each file.
        progress: The file that keeps the results; None keeps them in memory.
        each: Called with each new result, when it comes.

    Raises:
        DataError: An argument of the command line matches no file, or the progress file is damaged.
    """
    try:
        with ProgressStore(progress, job.depends) as store:
            store.list_files(files)
            _print_state(store)
            job.begin(store)
            _fill(store, job, each)
            yield store
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_ERRORS:
            raise
        raise DataError(
            f"{progress}: does not keep what a run has done, or is damaged ({error}). Delete it to "
            "begin anew."
        ) from error


def named_files(inputs: Sequence[str]) -> Iterator[InputFile]:
    """Yield the inputs of a command line with their names in a table.

    The files of a single folder are named relative to it. The names for several arguments are the
    paths as given, because names relative to two folders may be equal; URLs are without passwords.

    Args:
        inputs: See ``find_files``, with ``addresses``.

    Raises:
        DataError: An argument matches no file.
    """
    alone = len(inputs) == 1 and Path(inputs[0]).is_dir()
    for file in walk_files(inputs, addresses=True):
        if "://" in file.address:
            yield file._replace(name=without_password(file.address))
        elif alone or file.address:
            yield file
        else:
            yield file._replace(name=file.path.as_posix())


Predict = Callable[[Iterator[ImageSource]], Iterator[R | DataError]]
"""Predicts images in order, such as ``Predictor.stream`` with its options."""


def over_inputs(
    files: Iterable[Listed],
    predict: Predict[R],
    make: Callable[[Listed, R], Made],
    showing: Showing,
) -> Iterator[tuple[Listed, Made | DataError]]:
    """Predict images, and the frames of videos and streams one by one.

    Args:
        files: The files, consumed lazily.
        predict: Predicts images.
        make: Makes the result of an image or a frame.
        showing: Draws the results.

    Yields:
        See ``Job``.
    """
    for kind, group in groupby(files, lambda file: file.kind):
        if kind != "image":
            for file in group:
                yield from _over_frames(file, predict, make, showing)
            continue
        for file, image, result in over_images(group, predict):
            if isinstance(result, DataError):
                yield file, result
                continue
            path = showing.path(file.position, file.name, ".jpg")
            showing.image(path, file.name, image, result)
            yield file, make(file, result)


def _over_frames(
    file: Listed, predict: Predict[R], make: Callable[[Listed, R], Made], showing: Showing
) -> Iterator[tuple[Listed, Made | DataError]]:
    lost = None
    try:
        video = file.open()
        path = showing.path(file.position, file.name, ".mp4")
        with showing.video(path, file.name, video.fps, video.live) as draw:
            try:
                for frame, result in predict_frames(video, file.name, predict):
                    draw(frame, result)
                    made = make(file, result)
                    yield file, made._replace(frame=frame.number, time_s=frame.time_s, last=False)
                    if video.live and showing.closed:
                        break
            except StreamLostError as error:
                lost = error
    except DataError as error:
        yield file, error
        return
    yield file, NO_MORE
    if lost is not None:
        yield file, lost


NO_MORE = Made(0, b"")
"""Says that a video is done after its frames, and is not stored."""


def over_images(
    files: Iterable[Listed], predict: Predict[R]
) -> Iterator[tuple[Listed, ImageSource, R | DataError]]:
    """Predict images.

    Yields:
        Each file, in order, with its image and its prediction, or the error if it cannot be read.
    """
    listed, read = tee((file, file.image) for file in files)
    predictions = predict(image for _, image in read)
    for (file, image), prediction in zip(listed, predictions, strict=True):
        yield file, image, prediction


def predict_frames(
    video: Video | Stream, name: str, predict: Predict[R]
) -> Iterator[tuple[Frame, R]]:
    """Predict every frame of a video, or the newest frame of a stream again and again.

    A progress bar shows the frames per second. Ctrl-C ends a stream, as if it were over; how many
    frames were left out, because the model is slower, is said at the end.

    Raises:
        StreamLostError: The stream broke off.
        DataError: The video is broken.
    """
    options: dict[str, Any] = {"desc": name, "unit": "frame", "leave": False}
    if isinstance(video, Video):
        kept, read = tee(video.frames())
        pairs = zip(kept, predict(read), strict=True)
        for frame, result in tqdm(pairs, total=video.declared_frames or None, **options):
            if isinstance(result, DataError):
                raise result
            yield frame, result
        return
    count, begin = 0, time.monotonic()
    try:
        with ends_on_interrupt(video.stop):
            for frame in tqdm(video.frames(), **options):
                result = next(predict(iter([frame])))
                if isinstance(result, DataError):
                    raise result
                count += 1
                yield frame, result
    finally:
        seconds = max(time.monotonic() - begin, 1e-3)
        print(
            f"{name}: {count:,} frames in {seconds:.1f} s, {count / seconds:.1f} a second; "
            f"{video.received - count:,} left out, because newer ones had come",
            file=sys.stderr,
        )


def file_key(file: InputFile) -> str:
    """Return the identity of a file: another size or modification time makes it another file.

    What is at an address may be another thing each time.
    """
    if file.address:
        return f"{without_password(file.address)}|{time.time_ns()}"
    path = file.path.absolute()
    try:
        status = path.stat()
    except OSError:  # the job reports what is wrong
        return f"{path}|absent"
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def title(file: Listed, made: Made) -> str:
    """Return the name of an image, or of a frame with its time."""
    return file.name if file.kind == "image" else f"{file.name} {made.time_s:.2f} s"


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


def _fill(
    store: ProgressStore, job: Job, each: Callable[[Listed, Made], None] | None = None
) -> None:
    counts = store.counts()
    made: list[tuple[Listed, Made]] = []
    faults: list[tuple[Listed, str]] = []

    def write() -> None:
        store.add(made, faults)
        made.clear()
        faults.clear()

    outcomes = job(store.pending())
    bar = tqdm(total=counts.files, initial=counts.done, unit="file", smoothing=0.05)
    try:
        for file, outcome in outcomes:
            if isinstance(outcome, DataError):
                faults.append((file, str(outcome)))
            else:
                made.append((file, outcome))
                if each is not None and outcome is not NO_MORE:
                    each(file, outcome)
            bar.update(isinstance(outcome, DataError) or outcome.last)
            if len(made) + len(faults) >= job.files_at_once:
                write()
    finally:
        bar.close()
        write()  # also after Ctrl-C, so that no result is lost


def _print_state(store: ProgressStore) -> None:
    done = store.counts().done
    if store.begun_anew:
        changed = " and ".join(name.replace("_", " ") for name in store.begun_anew)
        print(f"{store.path}: is of a run with another {changed}; starting over", file=sys.stderr)
    elif done:
        print(f"{store.path}: {done:,} files are done already", file=sys.stderr)
