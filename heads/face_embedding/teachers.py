"""Teachers of face embeddings: external networks, and tables of embeddings."""

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ...backbone.errors import WeightsError
from ...backbone.weights.hub import PUBLIC_WEIGHTS, existing_file
from ...datasets.errors import DataError
from ...datasets.faces.views import FaceViews
from ...datasets.files import import_parquet
from ...datasets.types import FaceBatch
from ...datasets.vectors import read_vectors
from .cards import FACENET, Card
from .external_networks import ExternalNetwork, FacenetNetwork, NcnnNetwork, OnnxNetwork
from .far_frr import normalized


class EmbeddingTeacher(ABC):
    """Base of the teachers: embeds the faces of a batch."""

    @abstractmethod
    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """Read the teacher when training starts; ``dimension`` and ``device`` are the student's.

        ``views`` are those of the training data; None where they are not known.

        Raises:
            WeightsError: It cannot be read, or does not fit the student or the data.
        """

    @abstractmethod
    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length."""


class FaceTeacher(EmbeddingTeacher):
    """Base of the networks of other projects as teachers; a subclass makes the network.

    It sees the very images of the student, and is much slower than a ``TableTeacher``.
    """

    @abstractmethod
    def make_network(self) -> ExternalNetwork:
        """Return the network, not opened yet; called once, before the first faces."""

    @cached_property
    def network(self) -> ExternalNetwork:
        """The network."""
        return self.make_network()

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:  # noqa: ARG002
        """Open the network, and check its dimension with one gray face."""
        self.network.open()
        gray = np.full((1, self.network.size, self.network.size, 3), 127, np.uint8)
        check_dimension(type(self).__name__, self.network.embed(gray).shape[1], dimension)

    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length, for the images of a batch."""
        return torch.from_numpy(self.network.embed(batch.images)).to(batch.images.device)


def check_dimension(name: str, teacher: int, student: int) -> None:
    """Raise a WeightsError if teacher and student have embeddings of different dimensions."""
    if teacher != student:
        raise WeightsError(
            f"{name}: gives {teacher} numbers for a face, and the student {student}. Set the "
            f"network's dimension to {teacher}."
        )


def _given_card(base: Card, **options: Any) -> Card | None:
    """Return a card with the options that are given; None, which looks for it, if none is."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(base, **given) if given else None


class NcnnTeacher(FaceTeacher):
    """An ncnn network, such as a published MobileFaceNet.

    Args:
        param: The ``.param`` file; the ``.bin`` lies beside it.
        size: Side in px of its input. If none of these three is given, the network's card says
            them, see ``cards.py``.
        pixel_mean: Subtracted from the RGB pixels in [0, 255]; by default 0.
        pixel_std: Then divided by; by default 1.
        num_threads: Threads of one image.
    """

    def __init__(
        self,
        param: str | Path,
        size: int | None = None,
        pixel_mean: float | None = None,
        pixel_std: float | None = None,
        num_threads: int = 1,
    ) -> None:
        self.param, self.num_threads = Path(param), num_threads
        base = Card(pixel_mean=0.0, pixel_std=1.0)
        self.card = _given_card(base, size=size, pixel_mean=pixel_mean, pixel_std=pixel_std)

    def make_network(self) -> ExternalNetwork:
        """See ``FaceTeacher``."""
        return NcnnNetwork(self.param, self.card, self.num_threads)


class OnnxTeacher(FaceTeacher):
    """Any ONNX model of aligned faces.

    Args:
        path: The file.
        size: Side in px of the faces; None takes that of the model's input, or 112 where it is
            free. If none of these four is given, the network's card says them, see ``cards.py``.
        pixel_mean: Subtracted from the pixels in [0, 255]; by default 127.5.
        pixel_std: Then divided by; by default 127.5.
        order: Whether red or blue comes first; by default red.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        pixel_mean: float | None = None,
        pixel_std: float | None = None,
        order: Literal["rgb", "bgr"] | None = None,
    ) -> None:
        self.path = Path(path)
        self.card = _given_card(
            Card(), size=size, pixel_mean=pixel_mean, pixel_std=pixel_std, order=order
        )

    def make_network(self) -> ExternalNetwork:
        """See ``FaceTeacher``."""
        return OnnxNetwork(self.path, self.card)


class FacenetTeacher(FaceTeacher):
    """``InceptionResnetV1`` of facenet-pytorch (Schroff et al. 2015's FaceNet).

    Its weights are not downloaded here: ``mobilevision weights download facenet:vggface2``. It was
    trained on looser crops than those of ArcFace's template, which a student of aligned faces sees.

    Args:
        weights: "vggface2" or "casia-webface", or a file with its state dict; None gives random
            weights, for timing.
        size: Side in px.
    """

    def __init__(self, weights: str | None = "vggface2", size: int = 160) -> None:
        self.weights = weights
        self.card = replace(FACENET, size=size)

    def make_network(self) -> ExternalNetwork:
        """See ``FaceTeacher``."""
        name = f"facenet:{self.weights}"
        if name not in PUBLIC_WEIGHTS:
            return FacenetNetwork(self.weights, self.card)
        file = existing_file(name)
        if file is None:
            raise WeightsError(
                f"{name}: its weights are not here yet; fetch them with: "
                f"mobilevision weights download {name} --accept-license "
                f"{PUBLIC_WEIGHTS[name].license}"
            )
        return FacenetNetwork(file, self.card)

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """See ``FaceTeacher``; it moves to the device."""
        super().prepare(dimension, device, views)
        cast(FacenetNetwork, self.network).network.to(device)


class ViewTable(NamedTuple):
    """Embeddings of views of files."""

    files: np.ndarray
    """(N,) str."""
    views: np.ndarray
    """(N,) int64."""
    embeddings: np.ndarray
    """(N, D) float32, of unit length."""
    fingerprint: str | None
    """See ``FaceViews.fingerprint``; None where the table has none."""


def read_view_table(path: str | Path) -> ViewTable:
    """Read a table of embeddings: columns ``file``, ``embedding`` and optionally ``view``.

    Without ``view``, and in the other formats of ``datasets.vectors``, all are view 0, the plain
    faces.

    Raises:
        DataError: There is no such file, or it has another form.
    """
    path = Path(path)
    if path.suffix == ".parquet" and path.is_file():
        try:
            table = import_parquet(path).read_table(path)
            if {"file", "view", "embedding"} <= set(table.column_names):
                return _views(path, table)
        except DataError:
            raise
        except Exception as error:  # pyarrow raises many kinds for a file of another format
            raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    plain = read_vectors(path)
    zeros = np.zeros(len(plain.files), np.int64)
    return ViewTable(plain.files, zeros, normalized(plain.vectors), None)


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
        normalized(rows),
        metadata[b"fingerprint"].decode() if b"fingerprint" in metadata else None,
    )


class TableTeacher(EmbeddingTeacher):
    """A table of a teacher's embeddings of each file and view.

    Args:
        table: See ``read_view_table``. It is refused if its views are not those of the data.
    """

    def __init__(self, table: str | Path) -> None:
        self.path = Path(table)
        self._rows = np.empty((0, 0), np.int64)
        self._embeddings = torch.empty(0)

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """Read the table and check that it has every file of the data."""
        if views is None:
            raise WeightsError(
                f"{self.path}: a table needs data that lists its files, such as FaceDataModule"
            )
        table = read_view_table(self.path)
        check_dimension(str(self.path), table.embeddings.shape[1], dimension)
        if table.views.any() and table.fingerprint not in (None, views.fingerprint):
            raise WeightsError(
                f"{self.path}: has views {table.fingerprint}, and the data draws "
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
                f"{', '.join(missing[:5])}. Embed all files of the training data."
            )
        self._embeddings = torch.from_numpy(table.embeddings).to(device)

    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length; a view that is absent raises a WeightsError."""
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
