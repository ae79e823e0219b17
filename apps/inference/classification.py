"""Classification from Python: images of any kind in, the most probable classes out.

    from mobilevision.apps import Classifier

    classify = Classifier.load("mobilenet.ckpt")
    result = classify("dog.jpg")
    result.name, result.score, result.names[:5], result.scores[:5]

Free of torch; the runtime that the model's file is for is imported when it is loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import IMAGENET_CROP, center_crop
from .predictor import ImageLike, ImageSource, Predictor, Prepared, as_images
from .runtime import AS_THEY_ARE, ModelMetadata, cropped

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
    """The K most probable classes of one image, by falling probability.

    Attributes:
        scores: (K,) float32, probabilities in [0, 1].
        labels: (K,) int64, class indices: positions in ``categories``.
        categories: Id -> name of all classes that the model knows.
        probabilities: (C,) float32 of all classes in their order, adding to 1.
        image: What was looked at.
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
        """Its probability."""
        return float(self.scores[0])

    def to_dict(self) -> dict[str, float]:
        """Name -> probability of the K classes, by falling probability."""
        return dict(zip(self.names, self.scores.tolist(), strict=True))

    def __repr__(self) -> str:
        found = [f"{name} {score:.2f}" for name, score in self.to_dict().items()]
        return f"ClassificationResult({', '.join(found)})"


class Classifier(Predictor[ClassificationResult]):
    """Tells what an image shows, out of the classes that it was trained on.

    Images are prepared as evaluation does in training: most data modules take the central part in
    the network's shape, which the checkpoint says.
    """

    job = "classification"
    columns: ClassVar[dict[str, type]] = {"rank": int, "class": str, "probability": float}
    hint = (
        "Give a checkpoint of `lightning fit`; ImageNet weights of the paper's authors are made "
        "one by `mobilevision import`."
    )

    @staticmethod
    def task_class() -> "type[ClassificationTask]":
        """See ``Predictor``."""
        from ...heads.classification.task import ClassificationTask

        return ClassificationTask

    @classmethod
    def describe(cls, task: "ClassificationTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``; which part of an image is looked at is among the details."""
        crop = task.metadata.get(_CROP, IMAGENET_CROP)
        preparation = AS_THEY_ARE if crop is None else cropped(crop)
        return ModelMetadata(
            cls.job, size_hw, dict(task.categories), dict(_OUTPUTS), preparation=preparation,
            details={_CROP: crop},
        )  # fmt: skip

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
        """Make a classifier of a network that was built in Python; the network is copied.

        Args:
            network: (B, 3, H, W) uint8 RGB to logits (B, C).
            categories: Id -> name; the position is the class index.
            size_hw: Height and width of the network's input, as in training.
            crop_fraction: Side of the central part that is looked at; None stretches the whole.
            device: As for ``load``.

        Raises:
            DataError: There is no such device.
        """
        from .torch import run_network

        metadata = ModelMetadata(
            cls.job, size_hw, dict(categories), dict(_OUTPUTS), details={_CROP: crop_fraction}
        )
        return cls(run_network(cls, network, metadata, device))

    def __call__(  # type: ignore[override]
        self, images: ImageLike | Iterable[ImageLike], top: int = 5, batch_size: int = 16
    ) -> "ClassificationResult | list[ClassificationResult]":
        """Classify images.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or any
                iterable of them, of mixed kinds and sizes.
            top: Classes of each result, at most.
            batch_size: Images that go through the network at once.

        Returns:
            A result for a single image, a list for anything else; an empty list for an empty one.

        Raises:
            DataError: An image cannot be read; use ``stream`` to go on with the others. Or an
                option is out of its range.
        """
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
        """Classify any number of images, holding only a few of them.

        Args:
            images: For instance ``datasets.images.ImageFile`` objects; read as they are used.
            top: As for calling the classifier.
            batch_size: As for calling the classifier.
            strict: Whether an image that cannot be read raises its error, in place of yielding it.

        Returns:
            For each image in order its result, or the error that says why it cannot be read.

        Raises:
            DataError: An option is out of its range.
        """
        if batch_size < 1 or top < 1:
            raise DataError(f"batch_size={batch_size}, top={top}: both must be at least 1")
        return self.run(images, batch_size, strict, top=top)

    def rows(self, result: ClassificationResult) -> Iterable[tuple[Any, ...]]:
        """See ``Predictor``: the K classes."""
        ranks = range(1, len(result.names) + 1)
        return zip(ranks, result.names, result.scores.tolist(), strict=True)

    def prepare(self, image: ImageSource) -> Prepared:
        """Read an image as evaluation does in training."""
        fraction = self.runtime.metadata.details.get(_CROP, IMAGENET_CROP)
        if fraction is None:
            return super().prepare(image)
        pixels = image.read()
        size_hw = (pixels.shape[0], pixels.shape[1])
        return Prepared(center_crop(pixels, self.size_hw, fraction), size_hw)

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
