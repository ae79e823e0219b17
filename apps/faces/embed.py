"""``mobilevision embed``: rows of numbers for any number of files, into one table."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ..detection.detect import journal_key
from ..files.input_files import InputFile, walk_files
from ..files.row_tables import check_table, row_table
from .embedding_rows import RowMaker
from .embedding_store import Counts, EmbeddingStore, Listed

_FILES_AT_ONCE = 64
"""Files between two writes to the disk: of those that are done, what a kill loses at most."""
_NAMED_FAULTS = 100


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        out: The table, ``.parquet`` or ``.csv``; beside it is ``<out>.progress``, from which a run
            goes on.
        model: What the table says of its model; also what the rows depend on.
        metadata: What readers of the table need to know besides, in its schema.
    """

    out: Path
    model: dict[str, Any]
    metadata: dict[str, str]


def named_files(inputs: Sequence[str]) -> Iterator[tuple[InputFile, str, str]]:
    """Pictures of a command line, their names in the table and their keys, one by one.

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


def make_table(
    work: Work, files: Iterable[tuple[InputFile, str, str]], make_rows: RowMaker
) -> Counts:
    """Make the rows of all files that are not done, write the table, and say what came of it.

    Memory does not grow with the number of files. A run that was stopped or killed goes on where
    it was; files whose size or time of change is another are done again, and faulty ones are tried
    again.

    Args:
        work: The table and the model.
        files: The file, its name in the table, its key; read once.
        make_rows: What to make of a file.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: A word of the command line names nothing, or the table cannot be written.
    """
    check_table(work.out)
    depends = {**work.model, **make_rows.about}
    with EmbeddingStore(Path(f"{work.out}.progress"), depends) as store:
        store.list_files(files)
        _say_where_from(store)
        _fill(store, make_rows)
        about = {"mobilevision": json.dumps(depends), **work.metadata}
        with row_table(work.out, make_rows.columns, about) as add:
            for name, rows in store.results():
                add(name, rows)
        counts = store.counts()
        _print_summary(work.out, store, counts)
    return counts


def file_key(file: InputFile) -> str:
    """As ``journal_key``, also for a file that is not there: reading it says so."""
    try:
        return journal_key(file)
    except OSError:
        return f"{file.path.absolute()}|absent"


def _fill(store: EmbeddingStore, make_rows: RowMaker) -> None:
    counts = store.counts()
    rows: list[tuple[Listed, np.ndarray]] = []
    faults: list[tuple[Listed, str]] = []

    def write() -> None:
        store.add(rows, faults)
        rows.clear()
        faults.clear()

    outcomes = make_rows(store.pending())
    bar = tqdm(outcomes, total=counts.files, initial=counts.done, unit="file", smoothing=0.05)
    try:
        for file, outcome in bar:
            if isinstance(outcome, DataError):
                faults.append((file, str(outcome)))
            else:
                rows.append((file, outcome))
            if len(rows) + len(faults) == _FILES_AT_ONCE:
                write()
    finally:
        write()  # what is done when Ctrl-C comes stays done


def _say_where_from(store: EmbeddingStore) -> None:
    done = store.counts().done
    if store.begun_anew:
        changed = ", ".join(store.begun_anew)
        print(f"{store.path}: of other work ({changed}); beginning anew", file=sys.stderr)
    elif done:
        print(f"{store.path}: {done:,} files are done already", file=sys.stderr)


def _print_summary(out: Path, store: EmbeddingStore, counts: Counts) -> None:
    print(f"{counts.done:,} of {counts.files:,} files, {counts.rows:,} rows: {out}")
    if counts.empty:
        print(f"{counts.empty:,} files without a face have no row")
    if counts.faults:
        print(f"\n{counts.faults:,} files with faults:", *islice(store.faults(), _NAMED_FAULTS),
              sep="\n  ")  # fmt: skip
    if counts.faults > _NAMED_FAULTS:
        print(f"  and {counts.faults - _NAMED_FAULTS:,} more")
