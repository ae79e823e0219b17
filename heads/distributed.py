"""Gather what each process has collected, sample by sample. torch is imported late."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ..datasets.errors import DataError

N = TypeVar("N", bound=tuple)


class SampleEvaluator(Generic[N]):
    """Base of the evaluators: collects batches of samples, and gathers them over all processes.

    ``N`` is a NamedTuple of arrays with samples first; the first array is ``ids`` (N,) int64.
    Lightning pads the last batch with duplicates under torch.distributed: of samples with the
    same id the first one of the lowest rank counts, on every process. ``dataset`` is the name
    to report.
    """

    columns: tuple[str, ...] = ()
    """Columns of the table of predictions after ``file``."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.gathered: N | None = None
        """The samples of all processes, sorted by id; None before ``gather``."""
        self._parts: list[N] = []
        self._paths: dict[int, str] = {}

    def add(self, part: N, paths: Sequence[str] = ()) -> None:
        """Add a batch, and the files of its samples."""
        self._parts.append(part)
        self._paths.update(zip(part[0].tolist(), paths, strict=False))

    def require_finite(self, logits: Any) -> None:
        """Raise a ValueError if a logit of a tensor is not finite."""
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"{self.dataset}: a logit is not finite. The weights may hold NaN: has the "
                "training diverged?"
            )

    def gather(self) -> N:
        """Give every process the samples of all, else a DataError; call it on all of them."""
        everyone = all_gather((self._parts, self._paths))
        self._paths = {number: path for _, paths in everyone for number, path in paths.items()}
        parts = [part for parts, _ in everyone for part in parts]
        if not parts:
            raise DataError(f"{self.dataset}: no images were evaluated")
        merged = self.gathered = merge_by_id(parts)
        self._parts = [merged]
        return merged

    def rows(self, samples: N) -> Iterable[Sequence[Any]]:
        """Return the cells of each sample, without its file."""
        raise NotImplementedError

    def to_csv(self) -> str:
        """Return a table of one line a sample; after ``gather`` those of all processes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", *self.columns])
        for part in self._parts:
            for number, cells in zip(part[0].tolist(), self.rows(part), strict=True):
                writer.writerow([self._paths.get(number, number), *cells])
        return text.getvalue()


def merge_by_id(parts: Sequence[N]) -> N:
    """Concatenate NamedTuples of arrays, sort by ``ids`` and keep the first sample of each id."""
    kind: Any = type(parts[0])
    together = kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    _, first = np.unique(together.ids, return_index=True)
    return kind(*(column[first] for column in together))


def all_gather(mine: Any) -> list[Any]:
    """Return the object of each process, in the order of their ranks; call it on all of them."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
