"""Classification from Python: images of any kind in, the most probable classes out.

    from mobilevision.apps import Classifier

    classify = Classifier.load()  # ImageNet's classes; or a checkpoint of yours
    result = classify("dog.jpg")
    result.name, result.score, result.names[:5], result.scores[:5]

No torch: the runtime of a model's file is imported when the model is loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import IMAGENET_CROP
from .predictor import ImageLike, ImageSource, Predictor, Prepared, as_images
from .runtime import ModelMetadata, Runtime, cropped

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.classification.task import ClassificationTask

_OUTPUTS = {
    "logits": "(batch, classes) float32",
    "probabilities": "(batch, classes) float32: their softmax",
}
_CROP = "crop_fraction"


@dataclass(frozen=True, eq=False)
class ClassificationResult:
    """The K most probable classes of one image, the most probable first.

    Attributes:
        scores: (K,) float32, probabilities in [0, 1].
        labels: (K,) int64, class indices: positions in ``categories``.
        categories: Id -> name of all classes of the model.
        probabilities: (C,) float32 of all classes in their order; their sum is 1.
        image: The image.
    """

    scores: np.ndarray
    labels: np.ndarray
    categories: dict[int, str]
    probabilities: np.ndarray
    image: ImageSource

    @property
    def names(self) -> list[str]:
        """The names of the K classes."""
        known = list(self.categories.values())
        return [known[label] for label in self.labels]

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.names[0]

    @property
    def score(self) -> float:
        """The probability of the most probable class."""
        return float(self.scores[0])

    def to_dict(self) -> dict[str, float]:
        """Return name -> probability of the K classes, the most probable first."""
        return dict(zip(self.names, self.scores.tolist(), strict=True))

    def __repr__(self) -> str:
        found = [f"{name} {score:.2f}" for name, score in self.to_dict().items()]
        return f"ClassificationResult({', '.join(found)})"


class Classifier(Predictor[ClassificationResult]):
    """Classifies images.

    Images are prepared as in the evaluation of training: most data modules take the central part,
    in the shape of the network's input, which is stored in the checkpoint.
    """

    job = "classification"
    columns: ClassVar[dict[str, type]] = {"rank": int, "class": str, "probability": float}
    default = "mobilenet_v1_1.0_224"

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.crop_fraction = runtime.metadata.details.get(_CROP, IMAGENET_CROP)

    @staticmethod
    def task_class() -> "type[ClassificationTask]":
        """See ``Predictor``."""
        from ...heads.classification.task import ClassificationTask

        return ClassificationTask

    @classmethod
    def describe(cls, task: "ClassificationTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``; the details hold the central part of an image that is used."""
        return _metadata(task.categories, size_hw, task.metadata.get(_CROP, IMAGENET_CROP))

    @staticmethod
    def outputs(network: "nn.Module", pixels: "Tensor", *_: Any) -> "tuple[Tensor, ...]":
        """See ``Predictor``: logits and probabilities."""
        logits = network(pixels).float()
        return logits, logits.softmax(dim=1)

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        categories: dict[int, str],
        size_hw: tuple[int, int] = (224, 224),
        crop_fraction: float | None = IMAGENET_CROP,
        device: str = "auto",
    ) -> "Classifier":
        """Make a classifier of a copy of a network.

        Args:
            network: (B, 3, H, W) uint8 RGB to logits (B, C).
            categories: Id -> name; the position is the class index.
            size_hw: Height and width of the network's input, as in training.
            crop_fraction: See ``Predictor``.
            device: See ``load``.
        """
        from .torch import run_network

        metadata = _metadata(categories, size_hw, crop_fraction)
        return cls(run_network(cls, network, metadata, device))

    def __call__(  # type: ignore[override]
        self, images: ImageLike | Iterable[ImageLike], top: int = 5, batch_size: int = 16
    ) -> "ClassificationResult | list[ClassificationResult]":
        """Classify images; ``top`` is the maximum number of classes. See ``Predictor``."""
        sources, single = as_images(images)
        results: list[Any] = list(self.stream(sources, top, batch_size, strict=True))
        return results[0] if single else results

    def stream(  # type: ignore[override]
        self,
        images: Iterable[ImageSource],
        top: int = 5,
        batch_size: int = 16,
        strict: bool = False,
    ) -> Iterator[ClassificationResult | DataError]:
        """Classify images one after the other. See ``Predictor``; ``top`` as in calling."""
        if top < 1:
            raise DataError(f"top={top}: must be at least 1")
        return super().stream(images, batch_size, strict, top=top)

    def rows(self, result: ClassificationResult) -> Iterable[tuple[Any, ...]]:
        """See ``Predictor``: the K classes."""
        ranks = range(1, len(result.names) + 1)
        return zip(ranks, result.names, result.scores.tolist(), strict=True)

    def draw(self, pixels: np.ndarray, result: ClassificationResult) -> np.ndarray:
        """See ``Predictor``: the K classes as a caption."""
        from ..drawing import draw_caption

        named = zip(result.names, result.scores, strict=True)
        return draw_caption(pixels, [f"{name} {score:.2f}" for name, score in named])

    def decode(  # type: ignore[override]
        self,
        outputs: Mapping[str, np.ndarray],
        images: Sequence[tuple[ImageSource, Prepared]],
        *,
        top: int = 5,
    ) -> Iterator[ClassificationResult]:
        """See ``Predictor``."""
        for probabilities, (image, _) in zip(outputs["probabilities"], images, strict=True):
            labels = np.argsort(-probabilities, kind="stable")[:top]
            yield ClassificationResult(
                probabilities[labels], labels, self.categories, probabilities, image
            )


def _metadata(
    categories: Mapping[int, str], size_hw: tuple[int, int], crop: float | None
) -> ModelMetadata:
    return ModelMetadata(
        Classifier.job, size_hw, dict(categories), dict(_OUTPUTS), preparation=cropped(crop),
        details={_CROP: crop},
    )  # fmt: skip
