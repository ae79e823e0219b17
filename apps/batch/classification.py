"""Classify any number of images into one table."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import ImageFile
from ..inference.classification import Classifier
from .runner import (
    Counts,
    Job,
    Listed,
    Made,
    ProgressStore,
    file_digest,
    named_files,
    pack,
    print_faults,
    run_over_files,
    unpack,
)
from .tables import check_table, text_table


class ClassifyJob(Job):
    """The most probable classes of images: rows of class index and probability; see ``Job``.

    Args:
        classifier: The model.
        model: Its file, which the results depend on.
        top: Classes of each image, at most.
        batch_size: Images that go through the network at once.
    """

    def __init__(self, classifier: Classifier, model: Path, top: int, batch_size: int) -> None:
        self.classifier = classifier
        self.top = top
        self.batch_size = self.files_at_once = batch_size
        self.depends = {
            "model": file_digest(model),
            "size_hw": list(classifier.size_hw),
            "top": top,
        }

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        """See ``Job``."""
        listed, read = tee(files)
        images = (ImageFile(file.path) for file in read)
        results = self.classifier.stream(images, self.top, self.batch_size)
        for file, result in zip(listed, results, strict=True):
            if isinstance(result, DataError):
                yield file, result
            else:
                yield file, pack(np.stack([result.labels, result.scores], axis=1))


def classify(
    inputs: Sequence[str],
    model: Path,
    out: Path | None = None,
    top: int = 5,
    batch_size: int = 16,
    device: str = "auto",
    size_hw: tuple[int, int] | None = None,
) -> Counts:
    """Classify images, and print the classes of each or write them as a table.

    Args:
        inputs: Files, folders and patterns.
        model: A file that ``Classifier.load`` reads.
        out: The table, ``.csv`` or ``.parquet``: ``file``, ``rank``, ``class``, ``probability``;
            beside it is ``<out>.progress``, from which a run goes on. None prints.
        top: Classes of each image, at most.
        batch_size: Images that go through the network at once.
        device: See ``Classifier.load``.
        size_hw: See ``Classifier.load``.

    Returns:
        Counts of files, rows and faults.

    Raises:
        DataError: An input is absent, the model cannot be used, or an option is out of its range.
    """
    if top < 1 or batch_size < 1:
        raise DataError("--top and --batch-size are at least 1")
    if out is not None:
        check_table(out)
    classifier = Classifier.load(model, device, size_hw)
    names = list(classifier.categories.values())
    job = ClassifyJob(classifier, model, top, batch_size)
    progress = None if out is None else Path(f"{out}.progress")
    with run_over_files(named_files(inputs), job, progress) as store:
        if out is None:
            _print(store, names)
        else:
            _write(out, store, names)
        counts = store.counts()
        if out is not None:
            print(f"{counts.done:,} of {counts.files:,} files: {out}")
        print_faults(store, counts.faults)
    return counts


def _print(store: ProgressStore, names: Sequence[str]) -> None:
    for file, made in store.results():
        found = [f"{names[int(label)]} {score:.3f}" for label, score in unpack(made)]
        print(f"{file.name}: {', '.join(found)}", flush=True)


def _write(out: Path, store: ProgressStore, names: Sequence[str]) -> None:
    with text_table(out, {"file": str, "rank": int, "class": str, "probability": float}) as add:
        for file, made in store.results():
            for rank, (label, score) in enumerate(unpack(made).tolist(), start=1):
                add((file.name, rank, names[int(label)], score))
