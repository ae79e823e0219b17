"""Faces in one pass from Python: pictures in, faces with embeddings and attributes out.

    from mobilevision.apps import FaceAnalyzer

    analyze = FaceAnalyzer.load("faces.ckpt")
    for face in analyze("group.jpg"):
        face.box, face.landmarks, face.score, face.embedding, face.probabilities["Smiling"]
    analyze.verify("a.jpg", "b.jpg").same

Free of torch until a model is loaded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.face_frame import crop_face
from ...heads.trust import trusting
from .attributes import FaceDescription
from .comparing import FaceComparer
from .exported_engines import is_exported, load_exported_analysis
from .finding import FaceFinder
from .results import Threshold

if TYPE_CHECKING:
    from torch import nn

    from .analysis_engine import AnalysisEngine


@dataclass(frozen=True, eq=False, repr=False)
class AnalyzedFace(FaceDescription):
    """One face, its attributes and its embedding.

    Attributes:
        embedding: (D,) float32 of unit length.
    """

    embedding: np.ndarray


class FaceAnalyzer(FaceComparer[AnalyzedFace]):
    """Finds faces, crops them by their landmarks and says who they are like and what they show.

    Args:
        engine: What runs the network; ``FaceAnalyzer.load`` and ``from_network`` make one.
        finder: What finds faces; by default MTCNN, made when it is first needed, so that crops do
            without it.
    """

    def __init__(self, engine: "AnalysisEngine", finder: FaceFinder | None = None) -> None:
        super().__init__(finder)
        self.engine = engine

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        finder: FaceFinder | None = None,
        trust: Iterable[str] = (),
    ) -> "FaceAnalyzer":
        """Load a checkpoint of ``FacesTask``, or what ``mobilevision export`` made of one.

        Args:
            path: The file.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size_hw: Height and width of the crops; None takes those of training.
            finder: As for the class.
            trust: Packages whose classes a checkpoint may name besides those of this package; never
                for a file of a stranger.

        Raises:
            WeightsError: No such file, or no network of both face jobs in it.
            DataError: There is no such device, or an exported file does not fit.
        """
        if is_exported(path):
            return cls(load_exported_analysis(Path(path), device, size_hw), finder)
        from .analysis_engine import load_analysis_engine

        with trusting(trust):
            return cls(load_analysis_engine(path, device, size_hw), finder)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        thresholds: dict[str, float],
        size_hw: tuple[int, int] = (160, 128),
        threshold: Threshold | None = None,
        device: str = "auto",
        finder: FaceFinder | None = None,
    ) -> "FaceAnalyzer":
        """Make it of a network that was built in Python; the network is copied.

        Args:
            network: (B, 3, H, W) uint8 RGB to ``FacesOutput``, such as ``FacesNetwork``.
            thresholds: Attribute -> the probability from which on it is said to be there, in the
                network's order.
            size_hw: Height and width of the crops, as in training.
            threshold: Least similarity of one person, as measured with this network.
            device: As for ``load``.
            finder: As for the class.

        Raises:
            DataError: There is no such device.
        """
        from .analysis_engine import TorchAnalysisEngine

        return cls(TorchAnalysisEngine(network, thresholds, size_hw, threshold, device), finder)

    @property
    def attributes(self) -> list[str]:
        """Their names, in the network's order."""
        return list(self.engine.thresholds)

    @property
    def threshold(self) -> Threshold | None:
        """The threshold that was measured with this model; None where none was."""
        return self.engine.threshold

    def crop(self, picture: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """See ``FaceReader``."""
        return crop_face(picture, landmarks, self.engine.size_hw)[0]

    def say(self, crops: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return embedding (D,) and probabilities (A,) of each crop, from one pass."""
        return zip(*self.engine(crops), strict=True)

    def face(
        self,
        box: np.ndarray,
        landmarks: np.ndarray,
        score: float,
        said: tuple[np.ndarray, np.ndarray],
    ) -> AnalyzedFace:
        """See ``FaceReader``."""
        embedding, values = said
        return AnalyzedFace(box, landmarks, score, values, self.engine.thresholds, embedding)
