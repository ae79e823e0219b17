"""Embeddings that a teacher gave before the training, as `mobilevision embed` writes them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...backbone.errors import WeightsError
from ...datasets.errors import DataError
from ...datasets.faces.views import FaceViews
from ...datasets.types import FaceBatch
from ...datasets.vectors import read_vectors
from .far_frr import normalised
from .teachers import EmbeddingTeacher, check_dimension

_NAMED = 5


class ViewTable(NamedTuple):
    """Embeddings of views of files."""

    files: np.ndarray
    """(N,) str."""
    views: np.ndarray
    """(N,) int64."""
    embeddings: np.ndarray
    """(N, D) float32, of unit length."""
    fingerprint: str | None
    """Of the views, see ``FaceViews.fingerprint``; None where the table does not say it."""


def read_view_table(path: str | Path) -> ViewTable:
    """Read a table of embeddings: columns ``file``, ``embedding`` and, if there is one, ``view``.

    Without ``view``, and in the other formats of ``datasets.vectors``, all are view 0, the plain
    faces.

    Raises:
        DataError: There is no such file, or it has another form.
    """
    path = Path(path)
    if path.suffix == ".parquet" and path.is_file():
        try:
            from pyarrow import parquet

            table = parquet.read_table(path)
            if {"file", "view", "embedding"} <= set(table.column_names):
                return _views(path, table)
        except DataError:
            raise
        except Exception as error:  # pyarrow is absent, or raises a kind of its own
            raise DataError(
                f"{path}: not a readable Parquet file ({error}); pyarrow reads it: pip install "
                "'mobilevision[parquet]'"
            ) from error
    plain = read_vectors(path)
    zeros = np.zeros(len(plain.files), np.int64)
    return ViewTable(plain.files, zeros, normalised(plain.vectors), None)


def _views(path: Path, table: Any) -> ViewTable:
    metadata = table.schema.metadata or {}
    rows = np.stack(table["embedding"].to_numpy()) if len(table) else np.empty((0, 0))
    views = table["view"].to_numpy()
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise DataError(f"{path}: an embedding is no list of numbers, or has NaN or infinity")
    if len(views) and (views.dtype.kind not in "iu" or min(views) < 0 or max(views) >= len(views)):
        raise DataError(f"{path}: views are numbered from 0 on; embed the data again")
    return ViewTable(
        np.asarray(table["file"].to_pylist(), dtype=np.str_),
        views.astype(np.int64),
        normalised(rows),
        metadata[b"fingerprint"].decode() if b"fingerprint" in metadata else None,
    )


class TableTeacher(EmbeddingTeacher):
    """A teacher whose embeddings of each file and view are in a table.

    Args:
        table: See ``read_view_table``.

    The table has to be of the very views that the data draws: it is refused where its fingerprint
    is another one.
    """

    def __init__(self, table: str | Path) -> None:
        self.path = Path(table)
        self._rows = np.empty((0, 0), np.int64)
        self._embeddings = torch.empty(0)

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """Read the table and see whether it has every file that the data has.

        Args:
            dimension: D of the student.
            device: Where the student is.
            views: What the data draws.

        Raises:
            DataError: The table cannot be read.
            WeightsError: It does not fit the student or the data.
        """
        if views is None:
            raise WeightsError(
                f"{self.path}: a table needs data that says which files it has, such as "
                "FaceDataModule"
            )
        table = read_view_table(self.path)
        check_dimension(str(self.path), table.embeddings.shape[1], dimension)
        if table.views.any() and table.fingerprint not in (None, views.fingerprint):
            raise WeightsError(
                f"{self.path}: is of views {table.fingerprint}, and the data draws "
                f"{views.fingerprint}. Files, landmarks, seed and recipe must be the same; embed "
                "the data again."
            )
        position = {file: index for index, file in enumerate(views.faces.files)}
        self._rows = np.full((len(position), int(table.views.max(initial=0)) + 1), -1, np.int64)
        for row, (file, view) in enumerate(
            zip(table.files.tolist(), table.views.tolist(), strict=True)
        ):
            if file in position:
                self._rows[position[file], view] = row
        missing = [file for file, index in position.items() if (self._rows[index] < 0).all()]
        if missing:
            raise WeightsError(
                f"{self.path}: {len(missing):,} of {len(position):,} files are not in it: "
                f"{', '.join(missing[:_NAMED])}. Embed all files of the training data."
            )
        self._embeddings = torch.from_numpy(table.embeddings).to(device)

    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length.

        Raises:
            WeightsError: A view is not in the table.
        """
        ids, views = batch.ids.cpu().numpy(), batch.views.cpu().numpy()
        known = views < self._rows.shape[1]
        rows = np.where(known, self._rows[ids, np.minimum(views, self._rows.shape[1] - 1)], -1)
        if (rows < 0).any():
            first = int(np.flatnonzero(rows < 0)[0])
            raise WeightsError(
                f"{self.path}: view {views[first]} of {batch.paths[first]} is not there; the last "
                f"is view {self._rows.shape[1] - 1}. Set the data's views to what was embedded "
                "(--views of `mobilevision embed`)."
            )
        return self._embeddings[torch.from_numpy(rows).to(self._embeddings.device)]
