"""Run any predictor over any number of images into one table, or print what it finds."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

from ...datasets.errors import DataError
from ...datasets.images import ImageFile
from ..inference.predictor import Predictor
from .runner import (
    Counts,
    Job,
    Listed,
    Made,
    ProgressStore,
    file_digest,
    named_files,
    print_faults,
    run_over_files,
)
from .tables import check_table, text_table

FormatRow = Callable[[tuple[Any, ...]], str]


class PredictJob(Job):
    """The rows that a predictor gives for images; see ``Job`` and ``Predictor.rows``.

    Args:
        predictor: The model.
        model: Its file, which the results depend on.
        batch_size: Images that go through the network at once.
        **options: Of the predictor's ``stream``; plain data.
    """

    def __init__(
        self, predictor: Predictor[Any], model: Path, batch_size: int, **options: Any
    ) -> None:
        self.predictor = predictor
        self.options = options
        self.files_at_once = batch_size
        size_hw = list(predictor.size_hw)
        self.depends = {"model": file_digest(model), "size_hw": size_hw, **options}

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """See ``Job``."""
        listed, read = tee(files)
        images = (ImageFile(file.path) for file in read)
        results = self.predictor.stream(images, batch_size=self.files_at_once, **self.options)
        for file, result in zip(listed, results, strict=True):
            if isinstance(result, DataError):
                yield file, result
            else:
                rows = list(self.predictor.rows(result))
                yield file, Made(len(rows), json.dumps(rows).encode())


def predict_files(
    predictor: Predictor[Any],
    model: str | Path,
    inputs: Sequence[str],
    out: Path | None = None,
    batch_size: int = 16,
    show: FormatRow = str,
    **options: Any,
) -> Counts:
    """Predict images, and write a table of the results or print them.

    A run that was stopped goes on where it was, from ``<out>.progress``.

    Args:
        predictor: Its ``columns`` and ``rows`` are those of the table.
        model: The file that it was loaded from; where it changes, a run begins anew.
        inputs: Files, folders and patterns.
        out: The table, ``.csv`` or ``.parquet``: ``file`` and the predictor's columns. None prints
            a line for each image.
        batch_size: Images that go through the network at once.
        show: Makes text of a row where the results are printed.
        **options: Of the predictor's ``stream``.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An input is absent, or an option is out of its range.
    """
    if out is not None:
        check_table(out)
    job = PredictJob(predictor, Path(model), batch_size, **options)
    progress = None if out is None else Path(f"{out}.progress")
    with run_over_files(named_files(inputs), job, progress) as store:
        if out is None:
            for file, rows in _results(store):
                print(f"{file.name}: {', '.join(map(show, rows))}", flush=True)
        else:
            with text_table(out, {"file": str, **predictor.columns}) as add:
                for file, rows in _results(store):
                    for row in rows:
                        add((file.name, *row))
        counts = store.counts()
        if out is not None:
            print(f"{counts.done:,} of {counts.files:,} files: {out}")
        print_faults(store, counts.faults)
    return counts


def _results(store: ProgressStore) -> Iterator[tuple[Listed, list[tuple[Any, ...]]]]:
    for file, made in store.results():
        yield file, [tuple(row) for row in json.loads(made.content)]
