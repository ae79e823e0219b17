"""Faces in one pass from Python: images in, faces with embeddings and attributes out.

    from mobilevision.apps import FaceAnalyzer

    analyze = FaceAnalyzer.load("faces.ckpt")
    for face in analyze("group.jpg"):
        face.box, face.landmarks, face.score, face.embedding, face.probabilities["Smiling"]
    analyze.verify("a.jpg", "b.jpg").same

No torch until a model is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...heads.face_attributes.average_precision import stored_thresholds
from .face_attributes import (
    PREPARATION,
    FaceDescriber,
    FaceDescription,
    attribute_outputs,
    attribute_tensors,
)
from .face_detection import AnyDetector, FoundFace
from .face_embedding import OUTPUTS
from .face_pipeline import FaceComparer, Threshold, given_details, measured_details
from .runtime import ModelMetadata

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.faces import FacesTask


@dataclass(frozen=True, eq=False, repr=False)
class AnalyzedFace(FaceDescription):
    """One face, its attributes and its embedding.

    Attributes:
        embedding: (D,) float32 of unit length.
    """

    embedding: np.ndarray


class FaceAnalyzer(FaceDescriber[AnalyzedFace], FaceComparer[AnalyzedFace]):
    """Finds faces, embeds them and predicts their attributes in one pass; see ``FacePredictor``."""

    job = "faces"
    hint = "Give a checkpoint of `lightning fit -c configs/face.yaml`."

    @staticmethod
    def task_class() -> "type[FacesTask]":
        """See ``Predictor``."""
        from ...heads.faces import FacesTask

        return FacesTask

    @classmethod
    def describe(cls, task: "FacesTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``; the metadata hold the thresholds of both jobs."""
        thresholds = stored_thresholds(task.categories.values(), task.metadata)
        return _metadata(task.network, thresholds, size_hw, measured_details(task.metadata))

    @staticmethod
    def outputs(network: "nn.Module", pixels: "Tensor", *_: Any) -> "tuple[Tensor, ...]":
        """See ``Predictor``: embeddings, then the outputs of attribute networks."""
        output = network(pixels)
        return output.embeddings.float(), *attribute_tensors(output.attributes)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        thresholds: dict[str, float],
        size_hw: tuple[int, int] = (160, 128),
        threshold: Threshold | None = None,
        device: str = "auto",
        detector: AnyDetector = None,
    ) -> "FaceAnalyzer":
        """Make a predictor of a copy of a network.

        Args:
            network: (B, 3, H, W) uint8 RGB to ``FacesOutput``, such as ``FacesNetwork``.
            thresholds: Attribute -> minimum probability that counts as present, in the network's
                order.
            size_hw: Height and width of the crops, as in training.
            threshold: Minimum similarity of one person, as measured with this network.
            device: See ``load``.
            detector: As for the class.
        """
        from .torch import run_network

        metadata = _metadata(network, thresholds, size_hw, given_details(threshold))
        return cls(run_network(cls, network, metadata, device), detector, device)

    def face(self, found: FoundFace, outputs: Mapping[str, np.ndarray]) -> AnalyzedFace:
        """See ``FacePredictor``."""
        values, embedding = outputs["probabilities"], outputs["embeddings"]
        return AnalyzedFace(*found, values, self.thresholds, embedding)


def _metadata(
    network: "nn.Module",
    thresholds: dict[str, float],
    size_hw: tuple[int, int],
    details: dict[str, Any],
) -> ModelMetadata:
    outputs = {**OUTPUTS, **attribute_outputs(getattr(network, "attributes", None))}
    names = dict(enumerate(thresholds))
    return ModelMetadata(
        FaceAnalyzer.job, size_hw, names, outputs, dict(thresholds), PREPARATION, details
    )
