"""Face attributes from Python: pictures of any kind in, faces with attributes out.

    from mobilevision.apps import FaceAttributes

    describe = FaceAttributes.load("attributes.ckpt")
    for face in describe("group.jpg"):
        face.box, face.probabilities["Smiling"], face.present["Smiling"], face.names

Free of torch until a model is loaded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.face_frame import crop_face
from ...heads.trust import trusting
from .exported_engines import is_exported, load_exported_attributes
from .finding import FaceFinder
from .reading import FaceReader

if TYPE_CHECKING:
    from torch import nn

    from .attribute_engine import AttributeEngine


@dataclass(frozen=True, eq=False)
class FaceDescription:
    """One face and its attributes.

    Attributes:
        box: (4,) float32, xyxy in px of the original picture, EXIF rotation applied.
        landmarks: (5, 2) float32, x and y in px: eyes, nose, corners of the mouth, as seen in the
            picture left before right; NaN where the picture was a crop already.
        score: Of the detection, in [0, 1]; 1 where the picture was a crop already.
        values: (A,) float32, the probabilities in the order of ``thresholds``.
        thresholds: Attribute -> the probability from which on it is said to be there.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    values: np.ndarray
    thresholds: dict[str, float]

    @property
    def probabilities(self) -> dict[str, float]:
        """Attribute -> its probability, in [0, 1]."""
        return dict(zip(self.thresholds, self.values.tolist(), strict=True))

    @property
    def present(self) -> dict[str, bool]:
        """Attribute -> whether its probability reaches the stored threshold."""
        reached = self.values >= np.array(list(self.thresholds.values()), np.float32)
        return dict(zip(self.thresholds, reached.tolist(), strict=True))

    @property
    def names(self) -> list[str]:
        """The attributes that are said to be there."""
        return [name for name, there in self.present.items() if there]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.names) or 'nothing'})"


class FaceAttributes(FaceReader[FaceDescription]):
    """Finds faces, crops them by their landmarks and says their attributes.

    Args:
        engine: What runs the network; ``FaceAttributes.load`` and ``from_network`` make one.
        finder: What finds faces; by default MTCNN, made when it is first needed, so that crops do
            without it.
    """

    def __init__(self, engine: "AttributeEngine", finder: FaceFinder | None = None) -> None:
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
    ) -> "FaceAttributes":
        """Load a checkpoint of ``AttributeTask``, or what ``mobilevision export`` made of one.

        Args:
            path: The file.
            device: "auto" takes an accelerator where there is one, else the CPU.
            size_hw: Height and width of the crops; None takes those of training.
            finder: As for the class.
            trust: Packages whose classes a checkpoint may name besides those of this package; never
                for a file of a stranger.

        Raises:
            WeightsError: No such file, or no attribute network in it; the message says what to do.
            DataError: There is no such device, or an exported file does not fit.
        """
        if is_exported(path):
            return cls(load_exported_attributes(Path(path), device, size_hw), finder)
        from .attribute_engine import load_attribute_engine

        with trusting(trust):
            return cls(load_attribute_engine(path, device, size_hw), finder)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        thresholds: dict[str, float],
        size_hw: tuple[int, int] = (160, 128),
        device: str = "auto",
        finder: FaceFinder | None = None,
    ) -> "FaceAttributes":
        """Make it of a network that was built in Python; the network is copied.

        Args:
            network: (B, 3, H, W) uint8 RGB to ``AttributeOutput``, such as ``AttributeNetwork``.
            thresholds: Attribute -> the probability from which on it is said to be there, in the
                network's order.
            size_hw: Height and width of the crops, as in training.
            device: As for ``load``.
            finder: As for the class.

        Raises:
            DataError: There is no such device.
        """
        from .attribute_engine import TorchAttributeEngine

        return cls(TorchAttributeEngine(network, thresholds, size_hw, device), finder)

    @property
    def attributes(self) -> list[str]:
        """Their names, in the network's order."""
        return list(self.engine.thresholds)

    def crop(self, picture: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
        """See ``FaceReader``."""
        return crop_face(picture, landmarks, self.engine.size_hw)[0]

    def say(self, crops: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, A) of crops."""
        return self.engine(crops)

    def face(
        self, box: np.ndarray, landmarks: np.ndarray, score: float, said: np.ndarray
    ) -> FaceDescription:
        """See ``FaceReader``."""
        return FaceDescription(box, landmarks, score, said, self.engine.thresholds)
