"""One backbone with the heads of both face jobs: embeddings and attributes from one pass."""

from typing import NamedTuple

from torch import Tensor, nn

from ...backbone.mobilenet import ClassRows, ImageNetwork
from ..face_attributes.model import AttributeHead, AttributeOutput
from ..face_embedding.model import EmbeddingHead, Pooling


class FacesOutput(NamedTuple):
    """The network's output for B faces."""

    embeddings: Tensor
    """(B, D) float32, of unit length."""
    attributes: AttributeOutput


class FacesNetwork(ImageNetwork):
    """A backbone whose last map goes to an ``EmbeddingHead`` and to an ``AttributeHead``.

    Args:
        backbone: A feature extractor behind the ``Backbone`` protocol; its last map is used.
        num_classes: Attributes of the data; the command line links it from there.
        dimension: D of the embeddings, that of the teacher.
        pooling: As for ``EmbeddingHead``.
        size_hw: Height and width of the crops in px; only ``depthwise`` pooling needs it, and then
            takes no other.
        embedding_dropout: As for ``EmbeddingHead``.
        norm: As for ``EmbeddingHead``.
        dropout: As for ``AttributeHead``.
        landmarks: As for ``AttributeHead``.
        **pixels: ``pixel_mean`` and ``pixel_std``, see ``ImageNetwork``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        dimension: int = 128,
        pooling: Pooling = "mean",
        size_hw: tuple[int, int] = (160, 128),
        embedding_dropout: float = 0.0,
        norm: bool = False,
        dropout: float = 0.0,
        landmarks: bool = False,
        **pixels: float,
    ) -> None:
        super().__init__(backbone, **pixels)
        channels, stride = self.backbone_info.channels[-1], self.backbone_info.strides[-1]
        map_hw = (-(-size_hw[0] // stride), -(-size_hw[1] // stride))
        self.embedding = EmbeddingHead(
            channels, dimension, pooling, map_hw, embedding_dropout, norm
        )
        self.attributes = AttributeHead(channels, num_classes, dropout, landmarks)
        self.num_classes, self.dimension = num_classes, dimension

    def class_layers(self) -> dict[str, ClassRows]:
        """See ``ImageNetwork``."""
        return {"attributes.attributes": ClassRows()}

    def forward(self, images: Tensor) -> FacesOutput:
        """Return the output of both heads for images (B, 3, H, W) uint8 or float in [0, 255], RGB.

        The faces are in the frame of attributes, see ``datasets.faces.crops``.
        """
        features = self.backbone(self.normalized(images))[-1]
        return FacesOutput(self.embedding(features), self.attributes(features))
