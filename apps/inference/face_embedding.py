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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.faces.alignment import align_face, crop_box
from ...datasets.images import stretch
from ...heads.face_embedding.cards import card_path
from ...heads.face_embedding.external_networks import NETWORKS, ExternalNetwork
from ...heads.face_embedding.threshold import VERIFICATION_METADATA
from ..public import find_network
from .face_detection import AnyDetector, FoundFace
from .face_pipeline import FaceComparer, Threshold, given_details, measured_details
from .predictor import ImageLike, ImageSource, as_images
from .runtime import ModelMetadata, Runtime, is_exported

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.face_embedding.task import FaceEmbeddingTask

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
        "Give a checkpoint of `lightning fit -c configs/face_embedding.yaml`, or onnx:FILE, "
        "ncnn:FILE.param, facenet:FILE."
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
        detector: AnyDetector = None,
        trust: Iterable[str] = (),
    ) -> "FaceEmbedder":
        """Load a checkpoint, an exported file or a face network of another project.

        Args:
            model: A checkpoint or an exported file; a public name, such as ``mobilefacenet`` or
                ``facenet:vggface2``, whose license may have to be accepted by the environment
                variable ``MOBILEVISION_ACCEPT_LICENSE``; or a file of another project,
                ``onnx:FILE``, ``ncnn:FILE.param`` or ``facenet:FILE``, see ``heads/
                face_embedding/cards.py``.
            device: See ``Predictor``; the networks of other projects choose their own.
            size: Side of the aligned faces, in px; None takes that of training.
            detector: As for the class.
            trust: See ``Predictor``.

        Raises:
            DataError: There is no such file, or no face network in it.
            WeightsError: The network of another project cannot be read, or its library is absent.
        """
        if (found := find_network(model)) is not None:
            kind, file = found
            return cls(ExternalRuntime(NETWORKS[kind](file), size), detector, device)
        return super().load(model, device, None if size is None else (size, size), detector, trust)

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
        detector: AnyDetector = None,
    ) -> "FaceEmbedder":
        """Make an embedder of a copy of a network.

        Args:
            network: (B, 3, size, size) uint8 RGB to (B, D), such as ``FaceNetwork``.
            size: Side of the aligned faces, in px, as in training.
            threshold: The threshold that was measured with this network.
            device: See ``load``.
            detector: As for the class.
        """
        from .torch import run_network

        metadata = _metadata((size, size), given_details(threshold))
        return cls(run_network(cls, network, metadata, device), detector, device)

    @property
    def size(self) -> int:
        """Side of the aligned faces, in pixels."""
        return self.size_hw[0]

    @property
    def margin_px(self) -> int | None:
        """Margin of faces that are cut out by their boxes; None if they are aligned."""
        return self.runtime.metadata.details.get("margin_px")

    def crop(self, image: np.ndarray, landmarks: np.ndarray | None, box: np.ndarray) -> np.ndarray:
        """See ``FacePredictor``; a network of another project may want the box."""
        if landmarks is None:
            return stretch(image, self.size_hw)
        if self.margin_px is not None:
            return crop_box(image, box, self.size, self.margin_px)
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


class ExternalRuntime:
    """The ``Runtime`` of a face network of another project, with what its card says of it.

    Args:
        network: It is opened here.
        size: Side of the faces in px, where the network takes any; None takes that of its card.

    Raises:
        WeightsError: It cannot be read, its library is absent, or its card contradicts it.
        DataError: Its card is faulty, or it takes faces of another size.
    """

    def __init__(self, network: ExternalNetwork, size: int | None = None) -> None:
        network.open()
        card = network.card
        if size not in (None, network.size):
            raise DataError(
                f"size={size}: {network.files[0]} takes faces of {network.size} px; say another "
                f"size in its card, {card_path(network.files[0]).name}, if it takes any"
            )
        self.network = network
        preparation = _PREPARATION
        details: dict[str, Any] = measured_details(
            {VERIFICATION_METADATA: card.verification or None}
        )
        if card.crop == "box":
            details["margin_px"] = card.margin_px
            preparation = "faces cut out by their boxes, uint8 RGB (batch, height, width, 3)"
        self.metadata = replace(
            _metadata((network.size, network.size), details),
            preparation=preparation,
            license=card.license,
            provenance={"source": card.source},
        )

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        return {"embeddings": self.network.embed(images)}


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
    found = find_network(model)
    if found is None or not found[1].is_file():
        return {"kind": str(model)}
    kind, path = found
    files = [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]
    for file in [*files, card_path(path)]:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return {"kind": kind, "sha256": digest.hexdigest()}
