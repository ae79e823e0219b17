"""Face attributes from Python: images of any kind in, faces with attributes out.

    from mobilevision.apps import FaceAttributes

    describe = FaceAttributes.load("attributes.ckpt")
    for face in describe("group.jpg"):
        face.box, face.probabilities["Smiling"], face.present["Smiling"], face.names

No torch until a model is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...datasets.faces.alignment import crop_face
from ...heads.face_attributes.average_precision import stored_thresholds
from .face_detection import AnyDetector, FoundFace
from .face_pipeline import FacePredictor
from .runtime import ModelMetadata

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.face_attributes.model import AttributeOutput
    from ...heads.face_attributes.task import AttributeTask

PREPARATION = (
    "faces with hair, hat and neck as CelebA's aligned images show them, uint8 RGB "
    "(batch, height, width, 3)"
)
_OUTPUTS = {
    "logits": "(batch, attributes) float32",
    "probabilities": "(batch, attributes) float32: their sigmoid, one for each attribute",
}
_LANDMARKS = {
    "landmarks": "(batch, 5, 2) float32: x and y as shares of the crop's width and height"
}


@dataclass(frozen=True, eq=False)
class FaceDescription:
    """One face and its attributes.

    Attributes:
        box: (4,) float32, xyxy in px of the original image, EXIF rotation applied.
        landmarks: (5, 2) float32, x and y in px: eyes, nose, corners of the mouth, the left one in
            the image first; NaN if the image was a crop already.
        score: Score of the detection, in [0, 1]; 1 if the image was a crop already.
        values: (A,) float32, the probabilities in the order of ``thresholds``.
        thresholds: Attribute -> minimum probability that counts as present.
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
        """The attributes that are present."""
        return [name for name, present in self.present.items() if present]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.names) or 'nothing'})"


D = TypeVar("D", bound=FaceDescription)


class FaceDescriber(FacePredictor[D]):
    """Base of the APIs that find faces and predict their attributes."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Attribute -> minimum probability that counts as present, in the network's order."""
        return self.runtime.metadata.thresholds

    @property
    def attributes(self) -> list[str]:
        """The names of the attributes, in the network's order."""
        return list(self.thresholds)

    def draw(self, pixels: np.ndarray, result: list[D]) -> np.ndarray:  # type: ignore[override]
        """See ``Predictor``: boxes with the attributes beside them."""
        from ..drawing import draw_attributes

        return draw_attributes(pixels, result)

    def crop(self, image: np.ndarray, landmarks: np.ndarray | None, box: np.ndarray) -> np.ndarray:
        """See ``FacePredictor``."""
        del box
        return crop_face(image, landmarks, self.size_hw)[0]


class FaceAttributes(FaceDescriber[FaceDescription]):
    """Finds faces and predicts their attributes; see ``FacePredictor``."""

    job = "face_attributes"
    hint = "Give a checkpoint of `lightning fit -c configs/face_attributes.yaml`."

    @staticmethod
    def task_class() -> "type[AttributeTask]":
        """See ``Predictor``."""
        from ...heads.face_attributes.task import AttributeTask

        return AttributeTask

    @classmethod
    def describe(cls, task: "AttributeTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``."""
        thresholds = stored_thresholds(task.categories.values(), task.metadata)
        outputs = attribute_outputs(getattr(task.network, "head", None))
        return ModelMetadata(
            cls.job, size_hw, dict(task.categories), outputs, thresholds, PREPARATION
        )

    @staticmethod
    def outputs(network: "nn.Module", pixels: "Tensor", *_: Any) -> "tuple[Tensor, ...]":
        """See ``Predictor``: logits, probabilities, and landmarks if the network has them."""
        return attribute_tensors(network(pixels))

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        thresholds: dict[str, float],
        size_hw: tuple[int, int] = (160, 128),
        device: str = "auto",
        detector: AnyDetector = None,
    ) -> "FaceAttributes":
        """Make a predictor of a copy of a network.

        Args:
            network: (B, 3, H, W) uint8 RGB to ``AttributeOutput``, such as ``AttributeNetwork``.
            thresholds: Attribute -> minimum probability that counts as present, in the network's
                order.
            size_hw: Height and width of the crops, as in training.
            device: See ``load``.
            detector: As for the class.
        """
        from .torch import run_network

        names = dict(enumerate(thresholds))
        outputs = attribute_outputs(getattr(network, "head", None))
        metadata = ModelMetadata(cls.job, size_hw, names, outputs, dict(thresholds), PREPARATION)
        return cls(run_network(cls, network, metadata, device), detector, device)

    def face(self, found: FoundFace, outputs: Mapping[str, np.ndarray]) -> FaceDescription:
        """See ``FacePredictor``."""
        return FaceDescription(*found, outputs["probabilities"], self.thresholds)


def attribute_tensors(output: "AttributeOutput") -> "tuple[Tensor, ...]":
    """Return logits, probabilities, and landmarks if the network has them."""
    logits = output.logits.float()
    both = (logits, logits.sigmoid())
    return both if output.landmarks is None else (*both, output.landmarks.float())


def attribute_outputs(head: Any) -> dict[str, str]:
    """Return name -> meaning of the ``attribute_tensors`` of a network with this head."""
    return {**_OUTPUTS, **({} if getattr(head, "points", None) is None else _LANDMARKS)}
