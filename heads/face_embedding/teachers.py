"""Teachers of face embeddings: external networks, and tables of embeddings."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...backbone.errors import WeightsError, import_extra
from ...backbone.weights.formats import load_torch_file
from ...datasets.errors import DataError
from ...datasets.faces.views import FaceViews
from ...datasets.files import import_parquet
from ...datasets.images import stretch
from ...datasets.types import FaceBatch
from ...datasets.vectors import read_vectors
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
    """Base of the networks that embed aligned faces of ``size`` px; a subclass opens and runs one.

    It sees the very images of the student, and is much slower than a ``TableTeacher``.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._opened = False

    @abstractmethod
    def open(self) -> None:
        """Read the network, else raise a WeightsError; called once, before the first faces."""

    @abstractmethod
    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return (B, D) float32 of (B, size, size, 3) uint8 RGB, contiguous; of any length."""

    def embed(self, images: np.ndarray | Tensor) -> np.ndarray:
        """Embed aligned faces (B, H, W, 3) or (B, 3, H, W) uint8, RGB, resized to ``size``.

        Returns (B, D) float32 of unit length; an embedding of length zero stays zero.

        Raises:
            WeightsError: The network cannot be read, or its library is absent.
        """
        if not self._opened:
            self.open()
            self._opened = True
        return normalized(self.infer(self._prepared(images)))

    def _prepared(self, images: np.ndarray | Tensor) -> np.ndarray:
        pixels = images.numpy(force=True) if isinstance(images, Tensor) else np.asarray(images)
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or 3 not in pixels.shape[1::2]:
            raise ValueError(f"wanted are B uint8 images, not {pixels.dtype} {pixels.shape}")
        if pixels.shape[3] != 3:
            pixels = pixels.transpose(0, 2, 3, 1)
        size_hw = (self.size, self.size)
        if pixels.shape[1:3] != size_hw:
            resized = [stretch(np.ascontiguousarray(face), size_hw) for face in pixels]
            pixels = np.array(resized, np.uint8).reshape(-1, *size_hw, 3)
        return np.ascontiguousarray(pixels)

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:  # noqa: ARG002
        """Open the network, and check its dimension with one gray face."""
        gray = np.full((1, self.size, self.size, 3), 127, np.uint8)
        check_dimension(type(self).__name__, self.embed(gray).shape[1], dimension)

    def __call__(self, batch: FaceBatch) -> Tensor:
        """Return (B, D) float32 of unit length, for the images of a batch."""
        return torch.from_numpy(self.embed(batch.images)).to(batch.images.device)


def check_dimension(name: str, teacher: int, student: int) -> None:
    """Raise a WeightsError if teacher and student have embeddings of different dimensions."""
    if teacher != student:
        raise WeightsError(
            f"{name}: gives {teacher} numbers for a face, and the student {student}. Set the "
            f"network's dimension to {teacher}."
        )


_FACENET_FILES = {
    "vggface2": "20180402-114759-vggface2.pt",
    "casia-webface": "20180408-102900-casia-webface.pt",
}


class NcnnTeacher(FaceTeacher):
    """An ncnn network, such as a published MobileFaceNet; extra ``ncnn``.

    It runs in float32 on RGB pixels in [0, 255].

    Args:
        param: The ``.param`` file; the ``.bin`` lies beside it.
        size: Side in px of its input.
        pixel_mean: Subtracted from the pixels, where the network does not do that itself.
        pixel_std: Then divided by.
        num_threads: Threads of one image.
    """

    def __init__(
        self,
        param: str | Path,
        size: int = 112,
        pixel_mean: float = 0.0,
        pixel_std: float = 1.0,
        num_threads: int = 1,
    ) -> None:
        super().__init__(size)
        self.param = Path(param)
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.num_threads = num_threads
        self._library: Any = None
        self._network: Any = None

    def open(self) -> None:
        """See ``FaceTeacher``."""
        self._library = import_extra("ncnn", "'mobilevision[ncnn]'", "this teacher")
        network = self._library.Net()
        options = network.opt
        options.num_threads = self.num_threads
        # Half precision would give other embeddings on each kind of processor.
        options.use_fp16_packed = options.use_fp16_storage = False
        options.use_fp16_arithmetic = options.use_bf16_storage = False
        weights = self.param.with_suffix(".bin")
        for file in (self.param, weights):
            if not file.is_file():
                raise WeightsError(f"{file}: no such file; an ncnn network is a .param and a .bin")
        if network.load_param(str(self.param)) or network.load_model(str(weights)):
            raise WeightsError(f"{self.param}: ncnn cannot read it and {weights.name}")
        self._network = network

    def infer(self, images: np.ndarray) -> np.ndarray:
        """See ``FaceTeacher``."""
        source, target = self._network.input_names()[0], self._network.output_names()[-1]
        mean, scale = [self.pixel_mean] * 3, [1 / self.pixel_std] * 3
        embeddings: list[np.ndarray] = []
        for face in images:
            pixels = self._library.Mat.from_pixels(
                face, self._library.Mat.PixelType.PIXEL_RGB, self.size, self.size
            )
            pixels.substract_mean_normalize(mean, scale)
            extractor = self._network.create_extractor()
            extractor.input(source, pixels)
            embeddings.append(np.array(extractor.extract(target)[1]).reshape(-1))
        return np.stack(embeddings)


class OnnxTeacher(FaceTeacher):
    """Any ONNX model of aligned faces. Defaults as ArcFace's models have them.

    Args:
        path: The file.
        size: Side in px of the faces; None takes that of the model's input, or 112 where it is
            free.
        pixel_mean: Subtracted from the pixels in [0, 255].
        pixel_std: Then divided by.
        order: Whether red or blue comes first.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        pixel_mean: float = 127.5,
        pixel_std: float = 127.5,
        order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        super().__init__(size or 112)
        self.path = Path(path)
        self._size_is_free = size is None
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.order = order
        self._session: Any = None
        self._channels_last = False

    def open(self) -> None:
        """See ``FaceTeacher``."""
        runtime = import_extra("onnxruntime", "onnxruntime", "this teacher")
        if not self.path.is_file():
            raise WeightsError(f"{self.path}: no such file; name an ONNX model")
        try:
            self._session = runtime.InferenceSession(
                str(self.path), providers=runtime.get_available_providers()
            )
        except Exception as error:  # the runtime has many kinds of its own
            raise WeightsError(f"{self.path}: cannot be run as an ONNX model ({error})") from error
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise WeightsError(f"{self.path}: takes {shape}, and not images of three channels")
        self._channels_last = shape[1] != 3
        if self._size_is_free and isinstance(shape[2], int):
            self.size = shape[2]

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """See ``FaceTeacher``."""
        self.embed(np.zeros((1, self.size, self.size, 3), np.uint8))  # learns the size
        super().prepare(dimension, device, views)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """See ``FaceTeacher``."""
        if images.shape[1] != self.size:  # known only since the file was opened
            images = self._prepared(images)
        pixels = (images.astype(np.float32) - self.pixel_mean) / self.pixel_std
        if self.order == "bgr":
            pixels = pixels[..., ::-1]
        if not self._channels_last:
            pixels = pixels.transpose(0, 3, 1, 2)
        source = self._session.get_inputs()[0]
        single = source.shape[0] == 1  # many published models take one image at a time
        parts = pixels[:, None] if single else [pixels]
        embeddings = [
            self._session.run(None, {source.name: np.ascontiguousarray(part)})[0] for part in parts
        ]
        return np.concatenate(embeddings).reshape(len(images), -1)


class FacenetTeacher(FaceTeacher):
    """``InceptionResnetV1`` of facenet-pytorch (Schroff et al. 2015's FaceNet).

    The weights are not downloaded here. Their license is not clear: VGGFace2's images were
    offered for research only.

    Args:
        weights: "vggface2" or "casia-webface" from the cache of facenet-pytorch, or a file with its
            state dict; None gives random weights, for timing.
        size: Side in px; it was trained at 160, on looser crops than ArcFace's template.
    """

    def __init__(self, weights: str | None = "vggface2", size: int = 160) -> None:
        super().__init__(size)
        self.weights = weights
        self._network: Any = None

    def open(self) -> None:
        """See ``FaceTeacher``."""
        library = import_extra("facenet_pytorch", "facenet-pytorch==2.5.3", "this teacher")
        network = library.InceptionResnetV1(pretrained=None)
        if self.weights is not None:
            state = load_torch_file(self._file(self.weights))
            state = {name: value for name, value in state.items() if not name.startswith("logits.")}
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise WeightsError(
                    f"{self.weights}: no weights of InceptionResnetV1 ({error})"
                ) from error
        self._network = network.eval().requires_grad_(False)

    @staticmethod
    def _file(weights: str) -> Path:
        if weights not in _FACENET_FILES:
            return Path(weights)
        path = Path(torch.hub._get_torch_home()) / "checkpoints" / _FACENET_FILES[weights]
        if not path.is_file():
            raise WeightsError(
                f'{path}: no such file. facenet-pytorch downloads it: python -c "import '
                f"facenet_pytorch as f; f.InceptionResnetV1(pretrained='{weights}')\""
            )
        return path

    def infer(self, images: np.ndarray) -> np.ndarray:
        """See ``FaceTeacher``."""
        device = next(self._network.parameters()).device
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            return self._network((pixels - 127.5) / 128.0).cpu().numpy()

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """See ``FaceTeacher``; it moves to the device."""
        super().prepare(dimension, device, views)
        self._network.to(device)


def open_teacher(name: str) -> FaceTeacher | None:
    """Return a teacher by its name on command lines, not opened yet; None for any other text.

    Names are ``facenet:vggface2``, ``facenet:casia-webface``, ``facenet:FILE``, ``onnx:FILE``
    and ``ncnn:FILE.param``.
    """
    kind, _, rest = name.partition(":")
    kinds = {"facenet": FacenetTeacher, "onnx": OnnxTeacher, "ncnn": NcnnTeacher}
    return kinds[kind](rest) if kind in kinds and rest else None


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
