"""Run any predictor over any number of images, and write one table or print the results."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...datasets.errors import DataError
from ..inference.predictor import Predictor
from .runner import (
    Counts,
    Job,
    Listed,
    Made,
    file_digest,
    named_files,
    over_inputs,
    print_faults,
    run_over_files,
    title,
)
from .showing import Showing, Window
from .tables import check_table, text_table


class PredictJob(Job):
    """The ``Job`` that makes the ``rows`` of a predictor.

    Args:
        predictor: The model.
        model: Its file, which the results depend on.
        batch_size: Number of images that go through the network at once.
        window: Shows the results, or None.
        **options: Options of the predictor's ``stream``; plain data.
    """

    def __init__(
        self,
        predictor: Predictor[Any],
        model: Path,
        batch_size: int,
        window: Window | None = None,
        **options: Any,
    ) -> None:
        self.predictor = predictor
        self.showing = Showing(predictor.draw, window=window)
        self.options = options
        self.files_at_once = batch_size
        size_hw = list(predictor.size_hw)
        self.depends = {"model": file_digest(model), "size_hw": size_hw, **options}

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """See ``Job``."""

        def make(_: Listed, result: Any) -> Made:
            rows = list(self.predictor.rows(result))
            return Made(len(rows), json.dumps(rows).encode())

        stream, size = self.predictor.stream, self.files_at_once
        return over_inputs(
            files,
            lambda images: stream(images, batch_size=size, **self.options),
            make,
            self.showing,
        )


def predict_files(
    predictor: Predictor[Any],
    model: str | Path,
    inputs: Sequence[str],
    out: Path | None = None,
    batch_size: int = 16,
    show: Callable[[tuple[Any, ...]], str] = str,
    window: Window | None = None,
    **options: Any,
) -> Counts:
    """Predict images, videos and streams, and write a table of the results or print them.

    A run that was stopped is continued from ``<out>.progress``.

    Args:
        predictor: Defines the ``columns`` and ``rows`` of the table.
        model: The file that it was loaded from; if it changes, the run begins anew.
        inputs: See ``named_files``.
        out: The table, ``.csv`` or ``.parquet``: ``file``, where there are videos ``frame`` and
            ``time_s``, and the predictor's columns. None prints a line for each image.
        batch_size: Number of images that go through the network at once.
        show: Formats a row for printing.
        window: Shows the results, or None.
        **options: Options of the predictor's ``stream``.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An input is absent, or an option is out of range.
    """
    if out is not None:
        check_table(out)
    job = PredictJob(predictor, Path(model), batch_size, window, **options)

    def write_line(file: Listed, made: Made) -> None:
        rows = map(tuple, json.loads(made.content))
        tqdm.write(f"{title(file, made)}: {', '.join(map(show, rows))}", file=sys.stdout)

    progress, each = (None, write_line) if out is None else (Path(f"{out}.progress"), None)
    with run_over_files(named_files(inputs), job, progress, each) as store:
        if out is not None:
            framed = store.has_frames()
            frame = {"frame": int, "time_s": float} if framed else {}
            with text_table(out, {"file": str, **frame, **predictor.columns}) as add:
                for file, made in store.results():
                    place = (made.frame, made.time_s) if framed else ()
                    for row in json.loads(made.content):
                        add((file.name, *place, *row))
        counts = store.counts()
        if out is not None:
            print(f"{counts.done:,} of {counts.files:,} files: {out}")
        print_faults(store, counts.faults)
    return counts
