"""Face embeddings from Python: images of any kind in, faces with embeddings out.

    from mobilevision.apps import FaceEmbedder

    embedder = FaceEmbedder.load("face.ckpt")
    for face in embedder("group.jpg"):
        face.box, face.landmarks, face.score, face.embedding
    embedder.verify("a.jpg", "b.jpg").same

No torch until a model is loaded.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.alignment import align_face
from ...datasets.images import stretch
from .face_detector import FaceFinder, FoundFace
from .face_pipeline import FaceComparer, Threshold, given_details, measured_details
from .predictor import ImageLike, ImageSource, as_images
from .runtime import ModelMetadata, Runtime, is_exported, whole_install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.face_embedding.task import FaceEmbeddingTask
    from ...heads.face_embedding.teachers import FaceTeacher

OUTPUTS = {"embeddings": "(batch, dimension) float32 of unit length"}
_PREPARATION = (
    "faces aligned by five landmarks to ArcFace's template, uint8 RGB (batch, height, width, 3)"
)


class Face(NamedTuple):
    """One face of an image."""

    box: np.ndarray
    """(4,) float32, xyxy in px of the original image, EXIF rotation applied."""
    landmarks: np.ndarray
    """(5, 2) float32, x and y in px: eyes, nose, corners of the mouth, the left one in the image
    first."""
    score: float
    """Score of the detection, in [0, 1]."""
    embedding: np.ndarray
    """(D,) float32 of unit length."""


class FaceEmbedder(FaceComparer[Face]):
    """Finds faces, aligns them by their landmarks and embeds them; see ``FacePredictor``."""

    job = "face_embedding"
    hint = (
        "Give a checkpoint of `lightning fit -c configs/face_embedding.yaml`, or facenet:vggface2, "
        "onnx:FILE, ncnn:FILE.param."
    )

    @staticmethod
    def task_class() -> "type[FaceEmbeddingTask]":
        """See ``Predictor``."""
        from ...heads.face_embedding.task import FaceEmbeddingTask

        return FaceEmbeddingTask

    @classmethod
    def describe(cls, task: "FaceEmbeddingTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``; the measured threshold is among the details."""
        return _metadata(size_hw, measured_details(task.metadata))

    @staticmethod
    def outputs(
        network: "nn.Module",
        pixels: "Tensor",
        _size_hw: tuple[int, int],
        image_hw: tuple[Any, Any] | None,
    ) -> "tuple[Tensor, ...]":
        """See ``Predictor``: the embeddings."""
        embeddings = network(pixels).float()
        if image_hw is None:  # not exported: a caller's network may not normalize them itself
            from torch.nn.functional import normalize

            embeddings = normalize(embeddings, dim=1)
        return (embeddings,)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model: str | Path,
        device: str = "auto",
        size: int | None = None,
        finder: FaceFinder | None = None,
        trust: Iterable[str] = (),
    ) -> "FaceEmbedder":
        """Load a checkpoint, an exported file or a face network of another project.

        Args:
            model: A checkpoint or an exported file; or ``facenet:vggface2``, ``onnx:FILE``,
                ``ncnn:FILE.param``.
            device: See ``Predictor``; the networks of other projects choose their own.
            size: Side of the aligned faces, in px; None takes that of training.
            finder: As for the class.
            trust: See ``Predictor``.

        Raises:
            DataError: There is no such file, or no face network in it.
            WeightsError: The network of another project cannot be read, or its library is absent.
        """
        if ":" in str(model):
            try:
                from ...heads.face_embedding.teachers import open_teacher
            except ModuleNotFoundError as error:
                raise whole_install(f"{model}: a network of another project", error) from error
            teacher = open_teacher(str(model))
            if teacher is not None:
                return cls(TeacherRuntime(teacher), finder)
        return super().load(model, device, None if size is None else (size, size), finder, trust)

    @classmethod
    def accept(
        cls, runtime: Runtime, path: Path, size_hw: tuple[int, int] | None = None
    ) -> Runtime:
        """See ``Predictor``; aligned faces are square."""
        runtime = super().accept(runtime, path, size_hw)
        height, width = runtime.metadata.size_hw
        if height != width:
            raise DataError(
                f"{path}: works at {height}x{width} px, and aligned faces are square. Export the "
                "checkpoint again, for instance with --size 160 160."
            )
        return runtime

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        size: int = 160,
        threshold: Threshold | None = None,
        device: str = "auto",
        finder: FaceFinder | None = None,
    ) -> "FaceEmbedder":
        """Make an embedder of a copy of a network.

        Args:
            network: (B, 3, size, size) uint8 RGB to (B, D), such as ``FaceNetwork``.
            size: Side of the aligned faces, in px, as in training.
            threshold: The threshold that was measured with this network.
            device: See ``load``.
            finder: As for the class.
        """
        from .torch import run_network

        metadata = _metadata((size, size), given_details(threshold))
        return cls(run_network(cls, network, metadata, device), finder)

    @property
    def size(self) -> int:
        """Side of the aligned faces, in pixels."""
        return self.size_hw[0]

    def crop(self, image: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """See ``FacePredictor``."""
        if landmarks is None:
            return stretch(image, self.size_hw)
        return align_face(image, landmarks, self.size)

    def face(self, found: FoundFace, outputs: Mapping[str, np.ndarray]) -> Face:
        """See ``FacePredictor``."""
        return Face(*found, outputs["embeddings"])

    def embed_aligned(
        self,
        crops: ImageLike | Iterable[ImageLike],
        batch_size: int = 32,
    ) -> np.ndarray:
        """Embed faces that are cropped and aligned already, as by ``align_face``.

        Args:
            crops: Images of any kind, as for calling; those of another size are stretched.
            batch_size: Number of faces that go through the network at once.

        Returns:
            (N, D) float32 of unit length; N is 1 for a single crop.

        Raises:
            DataError: An image cannot be read, or an option is out of range.
        """
        images, _ = as_images(crops)
        rows: list[Any] = list(self.stream_aligned(images, batch_size, strict=True))
        return np.stack(rows) if rows else np.empty((0, self.dimension), np.float32)

    def stream_aligned(
        self, crops: Iterable[ImageSource], batch_size: int = 32, strict: bool = False
    ) -> Iterator[np.ndarray | DataError]:
        """Embed aligned faces one after the other, see ``stream``.

        Yields:
            For each crop in order its embedding (D,) float32, or the error if it cannot be read.
        """
        for faces in self.stream(crops, batch_size, aligned=True, strict=strict):
            yield faces if isinstance(faces, DataError) else faces[0].embedding


class TeacherRuntime:
    """The ``Runtime`` of a face network of another project, without a measured threshold.

    Args:
        teacher: From ``open_teacher``; its weights are loaded here.

    Raises:
        WeightsError: It cannot be read, or its library is absent.
    """

    def __init__(self, teacher: "FaceTeacher") -> None:
        self.teacher = teacher
        teacher.embed(np.zeros((1, teacher.size, teacher.size, 3), np.uint8))  # loads the weights
        self.metadata = _metadata((teacher.size, teacher.size), {})

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        return {"embeddings": self.teacher.embed(images)}


def _metadata(size_hw: tuple[int, int], details: dict[str, Any]) -> ModelMetadata:
    return ModelMetadata(
        FaceEmbedder.job, size_hw, {}, dict(OUTPUTS), preparation=_PREPARATION, details=details
    )


def model_fingerprint(model: str | Path) -> dict[str, Any]:
    """Return plain data that identifies a model and is equal for equal embeddings.

    Of a checkpoint only the weights count, not its name or other content such as the threshold.

    Args:
        model: As for ``FaceEmbedder.load``.

    Raises:
        DataError: It is a checkpoint that cannot be read.
    """
    path = Path(model)
    digest = hashlib.sha256()
    if path.is_file() and is_exported(model):
        return {"kind": "exported", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if path.is_file():
        from ...heads.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(model)
        for name, value in sorted(checkpoint.get("state_dict", {}).items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().numpy().tobytes())
        return {"kind": "checkpoint", "sha256": digest.hexdigest()}
    kind, _, rest = str(model).partition(":")
    path = Path(rest)
    if not path.is_file():
        return {"kind": str(model)}
    files = [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return {"kind": kind, "sha256": digest.hexdigest()}
