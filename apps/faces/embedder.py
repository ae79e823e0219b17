"""Face embeddings from Python: pictures of any kind in, faces with embeddings out.

from mobilevision.apps import FaceEmbedder

embedder = FaceEmbedder.load("face.ckpt")
for face in embedder("group.jpg"):
    face.box, face.landmarks, face.score, face.embedding
embedder.verify("a.jpg", "b.jpg").same
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.alignment import align_face
from ...datasets.errors import DataError
from ...datasets.images import stretch
from ...heads.trust import trusting
from ..files.inputs import Picture, PictureLike, all_or_raise, as_pictures
from .comparing import FaceComparer
from .exported_engines import is_exported, load_exported_embedding
from .finding import FaceFinder
from .results import Face, Threshold

if TYPE_CHECKING:
    from torch import nn

    from .embedding_engines import EmbeddingEngine


class FaceEmbedder(FaceComparer[Face]):
    """Finds faces, aligns them by their landmarks and embeds them.

    Args:
        engine: What runs the network; ``FaceEmbedder.load`` and ``from_network`` make one.
        finder: What finds faces; by default MTCNN, made when it is first needed, so that
            ``embed_aligned`` does without it.
    """

    def __init__(self, engine: "EmbeddingEngine", finder: FaceFinder | None = None) -> None:
        super().__init__(finder)
        self.engine = engine

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str = "auto",
        size: int | None = None,
        finder: FaceFinder | None = None,
        trust: Iterable[str] = (),
    ) -> "FaceEmbedder":
        """Load a checkpoint of ``FaceEmbeddingTask``, an exported one, or others' face networks.

        Args:
            model: The file, a checkpoint or what ``mobilevision export`` made of one; or
                ``facenet:vggface2``, ``onnx:FILE``, ``ncnn:FILE.param``.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size: Side in px of the aligned faces; None takes that of training.
            finder: As for the class.
            trust: Packages whose classes a checkpoint may name besides those of this package; never
                for a file of a stranger.

        Raises:
            DataError: No such file, or no face network in it; the message says what to do.
            WeightsError: Another people's network cannot be read, or its library is absent.
        """
        if is_exported(model):
            return cls(load_exported_embedding(Path(model), device, size), finder)
        from .embedding_engines import load_embedding_engine

        with trusting(trust):
            return cls(load_embedding_engine(model, device, size), finder)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        size: int = 160,
        threshold: Threshold | None = None,
        device: str = "auto",
        finder: FaceFinder | None = None,
    ) -> "FaceEmbedder":
        """Make an embedder of a network that was built in Python; the network is copied.

        Args:
            network: (B, 3, size, size) uint8 RGB to (B, D), such as ``FaceNetwork``.
            size: Side in px of the aligned faces, as in training.
            threshold: As measured with this network.
            device: As for ``load``.
            finder: As for the class.

        Raises:
            DataError: There is no such device.
        """
        from .embedding_engines import TorchEmbeddingEngine

        return cls(TorchEmbeddingEngine(network, size, threshold, device), finder)

    @property
    def threshold(self) -> Threshold | None:
        """The threshold that was measured with this model; None where none was."""
        return self.engine.threshold

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.embed_aligned([]).shape[1]

    def crop(self, picture: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """See ``FaceReader``."""
        size = self.engine.size
        if landmarks is None:
            return stretch(picture, (size, size))
        return align_face(picture, landmarks, size)

    def say(self, crops: np.ndarray) -> np.ndarray:
        """Return the embeddings (B, D) of crops."""
        return self.engine(crops)

    def face(self, box: np.ndarray, landmarks: np.ndarray, score: float, said: np.ndarray) -> Face:
        """See ``FaceReader``."""
        return Face(box, landmarks, score, said)

    def embed_aligned(
        self,
        crops: PictureLike | Iterable[PictureLike],
        batch_size: int = 32,
    ) -> np.ndarray:
        """Embed faces that are cut out and aligned already, as ``align_face`` does.

        Args:
            crops: Pictures of any kind, as for calling the embedder; those of another size are
                stretched to the network's.
            batch_size: Faces that go through the network at once.

        Returns:
            (N, D) float32 of unit length; N is 1 for a single crop.

        Raises:
            DataError: A picture cannot be read, or an option is out of its range.
        """
        pictures, _ = as_pictures(crops)
        rows = all_or_raise(self.stream_aligned(pictures, batch_size))
        if rows:
            return np.stack(rows)
        size = self.engine.size  # a face of nobody tells the dimension
        return self.engine(np.zeros((1, size, size, 3), np.uint8))[:0]

    def stream_aligned(
        self, crops: Iterable[Picture], batch_size: int = 32
    ) -> Iterator[np.ndarray | DataError]:
        """Embed any number of aligned faces, holding only a few of them.

        Args:
            crops: As for ``stream``.
            batch_size: Faces that go through the network at once.

        Yields:
            For each crop in order its embedding (D,) float32, or why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        for faces in self.stream(crops, batch_size, aligned=True):
            yield faces if isinstance(faces, DataError) else faces[0].embedding
