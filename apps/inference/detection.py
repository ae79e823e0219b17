"""Detection from Python: images of any kind in, objects in pixel coordinates out.

    from mobilevision.apps import Detector

    detector = Detector.load()  # the public COCO detector; or a checkpoint of yours
    result = detector("street.jpg")
    result.names, result.scores, result.boxes

No torch: the runtime of a model's file is imported when the model is loaded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from .predictor import ImageLike, ImageSource, Predictor, Prepared, as_images
from .runtime import ModelMetadata

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections
    from torch import Tensor, nn

    from ...heads.detection.task import DetectionNetwork, DetectionTask

_SCORE = "score"
OUTPUTS = {
    "boxes": "(batch, detections, 4) float32: x1, y1, x2, y2 in pixels of the image given",
    "scores": "(batch, detections) float32 from 0 to 1, falling",
    "labels": "(batch, detections) int64: position in the categories; -1 fills up",
}


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """The K objects in one image, by falling score. K may be 0.

    Attributes:
        boxes: (K, 4) float32, xyxy in pixels of the original image, EXIF rotation applied;
            clipped to the image.
        scores: (K,) float32 in [0, 1].
        labels: (K,) int64, class indices: positions in ``categories``.
        categories: Category id -> name of all classes of the model.
        size_hw: Height and width of the original image, in pixels.
        image: The image.
        landmarks: (K, 5, 2) float32, x and y in the same pixels, of a face detector: eyes, nose,
            corners of the mouth, as seen in the image left before right. None of others.
        tracks: (K,) int64, the number of the track of each object in a video, -1 where it has none
            yet; None without tracking.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    categories: dict[int, str]
    size_hw: tuple[int, int]
    image: ImageSource
    landmarks: np.ndarray | None = None
    tracks: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or {len(self.scores), len(self.labels)} != {count}:
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and labels "
                f"{self.labels.shape} do not belong together"
            )

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.size_hw
        found = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        more = [f"{len(found) - 5} more"] if len(found) > 5 else []
        return f"DetectionResult({width}x{height}: {', '.join(found[:5] + more) or 'nothing'})"

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        known = list(self.categories.values())
        return [known[label] for label in self.labels]

    @property
    def counts(self) -> dict[str, int]:
        """Class name -> number of objects, the most frequent class first."""
        return dict(Counter(self.names).most_common())

    @property
    def names_by_track(self) -> dict[int, str]:
        """Number of the track -> class name, of the objects that have a track."""
        tracks = [] if self.tracks is None else self.tracks.tolist()
        return {track: name for track, name in zip(tracks, self.names, strict=False) if track >= 0}

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64, the category id of each object."""
        return np.array(list(self.categories), dtype=np.int64)[self.labels]

    def above(self, score_threshold: float) -> "DetectionResult":
        """Return the objects that score at least ``score_threshold``."""
        return self.take(self.scores >= np.float32(score_threshold))

    def tracked(self) -> "DetectionResult":
        """Return the objects that have a track."""
        none = np.full(len(self), -1)
        return self.take((none if self.tracks is None else self.tracks) >= 0)

    def take(self, rows: np.ndarray) -> "DetectionResult":
        """Return some of the objects: a mask (K,) bool, or positions."""
        columns = ("boxes", "scores", "labels", "landmarks", "tracks")
        given = {name: getattr(self, name) for name in columns}
        taken = {name: None if column is None else column[rows] for name, column in given.items()}
        return replace(self, **taken)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return rows of COCO's results format: image_id, category_id, bbox (x, y, w, h), score.

        With tracking they have ``track_id``, too, None for objects without a track.

        Args:
            image_id: The image's id in the annotation file that the results belong to.
        """
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        columns = (self.category_ids, boxes, self.scores.astype(np.float64))
        rows = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(*map(np.ndarray.tolist, columns), strict=True)
        ]
        if self.tracks is not None:
            for row, track in zip(rows, self.tracks.tolist(), strict=True):
                row["track_id"] = track if track >= 0 else None
        return rows

    def to_supervision(self) -> "SupervisionDetections":
        """Return the objects as ``supervision.Detections``, with ``data["class_name"]``.

        Raises:
            DataError: The package is not installed.
        """
        return import_supervision("to_supervision()").Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            tracker_id=None if self.tracks is None else self.tracks.copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def plot(self, score_threshold: float = 0.0) -> Image.Image:
        """Draw the objects that reach a threshold onto their image, which is read again.

        Raises:
            DataError: The file can no longer be read.
        """
        from ..drawing import draw_detections

        names = list(self.categories.values())
        return Image.fromarray(draw_detections(self.image.read(), self, names, score_threshold))


class Detector(Predictor[DetectionResult]):
    """Finds objects in images."""

    job = "detection"
    default = "ssd_mobilenet_v1_0.75_coco_quant"
    named_outputs: ClassVar[Mapping[str, str]] = OUTPUTS
    """Name -> meaning of each output of the network."""
    default_threshold: ClassVar[float] = 0.5
    """Minimum score of the objects in a result, where no validation has chosen one."""

    @staticmethod
    def task_class() -> "type[DetectionTask]":
        """See ``Predictor``."""
        from ...heads.detection.task import DetectionTask

        return DetectionTask

    @classmethod
    def describe(cls, task: "DetectionTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``."""
        return cls._metadata(task.categories, size_hw, task.metadata.get("score_threshold"))

    @staticmethod
    def outputs(
        network: "nn.Module",
        pixels: "Tensor",
        size_hw: tuple[int, int],
        image_hw: tuple[Any, Any] | None,
    ) -> "tuple[Tensor, ...]":
        """See ``Predictor``: boxes, scores and labels."""
        detector = cast("DetectionNetwork", network)
        detections = detector.detect(detector(pixels), size_hw)
        boxes = detections.boxes
        if image_hw is not None:
            boxes = boxes * scales_xy(boxes, size_hw, image_hw).repeat(2)
        return boxes, detections.scores, detections.labels

    @classmethod
    def from_network(
        cls,
        network: "nn.Module",
        categories: dict[int, str],
        size_hw: tuple[int, int] = (300, 300),
        device: str = "auto",
    ) -> "Detector":
        """Make a detector of a copy of a network.

        Args:
            network: A ``DetectionNetwork``, such as ``SSD``.
            categories: Category id -> name; the position is the class index.
            size_hw: Height and width that images are stretched to, as in training.
            device: See ``load``.
        """
        from .torch import run_network

        return cls(run_network(cls, network, cls._metadata(categories, size_hw), device))

    @property
    def input_size(self) -> Any:
        """What images are resized to, as plain data; results depend on it."""
        return list(self.size_hw)

    @property
    def score_threshold(self) -> float:
        """The best threshold in the validation of the training, or the default one without."""
        return self.runtime.metadata.thresholds.get(_SCORE, self.default_threshold)

    def __call__(  # type: ignore[override]
        self,
        images: ImageLike | Iterable[ImageLike],
        score_threshold: float | None = None,
        batch_size: int = 8,
    ) -> "DetectionResult | list[DetectionResult]":
        """Find objects. See ``Predictor``.

        Args:
            images: See ``Predictor``.
            score_threshold: Objects below it are left out; 0 keeps all that the network's own
                post-processing keeps. None takes ``score_threshold`` of the detector.
            batch_size: See ``Predictor``.
        """
        sources, single = as_images(images)
        results: list[Any] = list(self.stream(sources, score_threshold, batch_size, strict=True))
        return results[0] if single else results

    def stream(  # type: ignore[override]
        self,
        images: Iterable[ImageSource],
        score_threshold: float | None = None,
        batch_size: int = 8,
        strict: bool = False,
    ) -> Iterator[DetectionResult | DataError]:
        """Find objects image by image. See ``Predictor``; ``score_threshold`` as in calling."""
        if score_threshold is None:
            score_threshold = self.score_threshold
        if not 0 <= score_threshold <= 1:
            raise DataError(f"score_threshold={score_threshold}: must be from 0 to 1")
        return super().stream(images, batch_size, strict, score_threshold=score_threshold)

    def decode(  # type: ignore[override]
        self,
        outputs: Mapping[str, np.ndarray],
        images: Sequence[tuple[ImageSource, Prepared]],
        *,
        score_threshold: float,
    ) -> Iterator[DetectionResult]:
        """See ``Predictor``; the boxes of the outputs are in pixels of the network's input."""
        for row, (image, prepared) in enumerate(images):
            of_image = {name: values[row] for name, values in outputs.items()}
            kept = (of_image["labels"] >= 0) & (of_image["scores"] >= np.float32(score_threshold))
            found = {name: values[kept] for name, values in of_image.items()}
            yield self._result(found, image, prepared)

    def _result(
        self, found: Mapping[str, np.ndarray], image: ImageSource, prepared: Prepared
    ) -> DetectionResult:
        """Return the result of an image by the outputs of the objects in it."""
        scale = np.array(prepared.size_hw, np.float32) / np.array(self.size_hw, np.float32)
        boxes = found["boxes"] * scale[[1, 0, 1, 0]]  # x, y, x, y
        scores, labels = found["scores"], found["labels"]
        return DetectionResult(boxes, scores, labels, self.categories, prepared.size_hw, image)

    @classmethod
    def _metadata(
        cls, categories: dict[int, str], size_hw: tuple[int, int], threshold: Any = None
    ) -> ModelMetadata:
        usable = isinstance(threshold, int | float) and 0 <= threshold <= 1
        thresholds = {_SCORE: float(threshold)} if usable else {}  # type: ignore[arg-type]
        named = dict(cls.named_outputs)
        return ModelMetadata(cls.job, size_hw, dict(categories), named, thresholds)


def import_supervision(purpose: str) -> Any:
    """Import supervision, or raise a DataError that names what needs it."""
    try:
        import supervision
    except ImportError as error:
        raise DataError(
            f"{purpose} needs the package supervision: pip install supervision"
        ) from error
    return supervision


def scales_xy(boxes: "Tensor", size_hw: tuple[int, int], image_hw: tuple[Any, Any]) -> "Tensor":
    """Return the factors (2,) of x and y from a network's input to the image, where boxes are."""
    import torch

    # Tensors, because the sizes of an exported network's images may be symbolic.
    factors = [
        torch.scalar_tensor(image_hw[axis] / size_hw[axis], device=boxes.device) for axis in (1, 0)
    ]
    return torch.stack(factors)
