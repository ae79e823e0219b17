"""Face detection from Python: boxes, five landmarks and scores in images of any size.

    from mobilevision.apps import FaceDetector

    detector = FaceDetector.load()  # the public weights; or a checkpoint of yours
    result = detector("party.jpg")
    result.boxes, result.landmarks, result.scores

No torch: the runtime of a model's file is imported when the model is loaded.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, Union, cast, get_args

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import MEAN_RGB, fit_within, letterbox, stretch
from .detection import OUTPUTS, DetectionResult, Detector, scales_xy
from .predictor import ImageSource, Prepared
from .runtime import ModelMetadata, Runtime, whole_install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.detection.task import DetectionNetwork, DetectionTask
    from ...heads.face_detection.task import FaceDetectionTask
    from ...heads.task import ImageTask

MAX_SIDE = 1024
"""Longer side in pixels to which larger images are reduced before faces are searched for."""
_LETTERBOXED = (
    "each image scaled to lie within size_hw, at its top left, the rest filled with RGB "
    f"{MEAN_RGB}: uint8 RGB (batch, height, width, 3)"
)
MTCNN = "mtcnn"
"""In place of a model: the three networks of facenet-pytorch, see ``mtcnn.MTCNNRuntime``."""
_MTCNN_THRESHOLD = 0.9

FaceChoice = Literal["all", "largest", "center"]
"""Which faces of an image are taken: all, the largest, or the one nearest to the image's center."""
FoundFace = tuple[np.ndarray, np.ndarray, float]
"""Box (4,), landmarks (5, 2) and score of a face, as in ``FacesFound``."""


class FacesFound(Protocol):
    """The K faces of one image, in any order, such as a ``DetectionResult``. K may be 0."""

    @property
    def boxes(self) -> np.ndarray:
        """(K, 4) float32, xyxy in px of the image; within the image."""
        ...

    @property
    def landmarks(self) -> np.ndarray | None:
        """(K, 5, 2) float32, x and y in px, as ``align_face`` takes them.

        These are eyes, nose and corners of the mouth, the left one in the image first.
        """
        ...

    @property
    def scores(self) -> np.ndarray:
        """(K,) float32 in [0, 1]."""
        ...


FindFaces = Callable[[Sequence[np.ndarray]], Sequence[FacesFound]]
"""Finds the faces of images (H, W, 3) uint8 RGB of any sizes, in order."""
AnyDetector = Union[str, Path, "FaceDetector", FindFaces, None]
"""Detector: a name or file for ``FaceDetector.load``, None for its default, or a function."""


class FaceDetector(Detector):
    """Finds the faces of images, with five landmarks each.

    Images are searched at their own size. An exported file, and ``size_hw``, ask for one size: then
    images are scaled to lie within it, and the rest is filled with a mean color.

    The faces of an image do not depend on the other images of a batch.

    Args:
        runtime: Runs the network; ``load`` makes one.
        max_side: Larger images are reduced to this longer side in pixels, which bounds time and
            memory; None never reduces. Faces much larger than 512 px are only found reduced.
        letterboxed: Whether images are scaled to the network's input size.

    Raises:
        DataError: max_side is not positive.
    """

    job = "face_detection"
    hint = (
        "Give a checkpoint of `lightning fit -c configs/face_detection.yaml`, an exported file, or "
        f"{MTCNN}."
    )
    default = "retinaface_mobilenet_0.25"
    named_outputs: ClassVar[Mapping[str, str]] = {
        **OUTPUTS,
        "landmarks": "(batch, detections, 5, 2) float32: x, y in the same pixels: eyes, nose, "
        "corners of the mouth, as seen in the image left before right",
    }
    default_threshold = 0.8
    """Measured with the public weights: at 0.95 all of 782 faces of CelebA are still found. In 170
    photos of COCO without people there are 21 boxes at 0.5, three at 0.8 (a tomato, a butterfly and
    a face on a poster) and none at 0.9; within people in 184 others there are 283, 186 and 149."""

    def __init__(
        self, runtime: Runtime, max_side: int | None = MAX_SIDE, letterboxed: bool = True
    ) -> None:
        super().__init__(runtime)
        if max_side is not None and max_side < 1:
            raise DataError(f"max_side={max_side}: must be at least 1")
        self.max_side = max_side
        self.letterboxed = letterboxed

    @staticmethod
    def task_class() -> "type[FaceDetectionTask]":
        """See ``Predictor``."""
        from ...heads.face_detection.task import FaceDetectionTask

        return FaceDetectionTask

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path | None = None,
        device: str = "auto",
        size_hw: tuple[int, int] | None = None,
        trust: Iterable[str] = (),
        max_side: int | None = MAX_SIDE,
    ) -> Self:
        """See ``Predictor``; ``size_hw`` and ``max_side`` as for the class.

        The name ``mtcnn`` takes the networks of facenet-pytorch in place of a model.
        """
        if path == MTCNN:
            try:
                from .mtcnn import MTCNNRuntime
            except ModuleNotFoundError as error:
                raise whole_install(MTCNN, error) from error
            metadata = cls._metadata({1: "face"}, size_hw or (640, 640), _MTCNN_THRESHOLD)
            return cls(MTCNNRuntime(metadata, device), max_side, letterboxed=size_hw is not None)
        made = super().load(path, device, size_hw, trust)
        return cls(made.runtime, max_side, made.letterboxed)

    @classmethod
    def of_task(
        cls, task: "ImageTask", device: str, size_hw: tuple[int, int] | None, source: str
    ) -> Self:
        """See ``Predictor``."""
        made = super().of_task(task, device, size_hw, source)
        made.letterboxed = size_hw is not None
        return made

    @property
    def input_size(self) -> Any:
        """See ``Detector``."""
        return super().input_size if self.letterboxed else {"max_side": self.max_side}

    @classmethod
    def describe(cls, task: "DetectionTask", size_hw: tuple[int, int]) -> ModelMetadata:
        """See ``Predictor``."""
        return replace(super().describe(task, size_hw), preparation=_LETTERBOXED)

    @staticmethod
    def outputs(
        network: "nn.Module",
        pixels: "Tensor",
        size_hw: tuple[int, int],
        image_hw: tuple[Any, Any] | None,
    ) -> "tuple[Tensor, ...]":
        """See ``Predictor``: boxes, scores, labels and landmarks, for pixels of any size."""
        detector = cast("DetectionNetwork", network)
        height, width = pixels.shape[-2:]
        found = detector.detect(detector(pixels), (height, width))
        boxes, points = found.boxes, cast("Tensor", found.landmarks)
        if image_hw is not None:
            scale = scales_xy(boxes, size_hw, image_hw)
            boxes, points = boxes * scale.repeat(2), points * scale
        return boxes, found.scores, found.labels, points

    @staticmethod
    def fit(pixels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """See ``Predictor``: letterboxed."""
        return letterbox(pixels, size_hw)

    def prepare(self, image: ImageSource) -> Prepared:
        """Read an image, and reduce or letterbox it."""
        if self.letterboxed:
            return super().prepare(image)
        pixels = image.read()
        size_hw = (pixels.shape[0], pixels.shape[1])
        if self.max_side is not None and max(size_hw) > self.max_side:
            pixels = stretch(pixels, fit_within(size_hw, (self.max_side, self.max_side)))
        return Prepared(pixels, size_hw)

    def _result(
        self, found: Mapping[str, np.ndarray], image: ImageSource, prepared: Prepared
    ) -> DetectionResult:
        """See ``Detector``; boxes end at the edge of the image, landmarks may lie beyond it."""
        height, width = prepared.size_hw
        seen = prepared.pixels.shape[:2]
        if self.letterboxed:
            seen = fit_within(prepared.size_hw, self.size_hw)
        scale = np.array([width / seen[1], height / seen[0]], np.float32)
        boxes = (found["boxes"] * np.tile(scale, 2)).clip(0, [width, height] * 2)
        scores, labels, points = found["scores"], found["labels"], found["landmarks"] * scale
        boxes = boxes.astype(np.float32)
        return DetectionResult(
            boxes, scores, labels, self.categories, prepared.size_hw, image, points
        )


def load_detector(detector: str | Path | None = None, device: str = "auto") -> FaceDetector:
    """Load a detector of faces by a name or file; see ``FaceDetector.load``.

    Raises:
        DataError: It cannot be loaded. If the public weights cannot be had, the message names what
            can be given in their place: no other detector is taken unasked, since the faces found
            would differ.
    """
    try:
        return FaceDetector.load(detector, device)
    except DataError as error:
        if detector not in (None, FaceDetector.default):
            raise
        if isinstance(error.__cause__, ImportError):
            raise DataError(
                "finding faces needs a detector, and without torch an exported one: --detector "
                'retinaface.onnx, in Python detector="retinaface.onnx". Where torch is installed, '
                f"`mobilevision export --ckpt {FaceDetector.default} --format onnx --out "
                "retinaface.onnx` writes it."
            ) from error
        raise DataError(
            f"{error}\nOr find faces with MTCNN, whose weights are installed: --detector {MTCNN}, "
            f'in Python detector="{MTCNN}".'
        ) from error


def choose_faces(
    found: FacesFound, size_hw: tuple[int, int], faces: FaceChoice = "all"
) -> list[FoundFace]:
    """Return the faces of an image that are taken, the largest first.

    Boxes without an area, and landmarks that are not finite, are no faces.

    Args:
        found: The faces.
        size_hw: Height and width of the image.
        faces: ``center`` takes the face whose box's center is nearest to the image's; of two that
            are as near, the larger one.

    Raises:
        DataError: There is no such choice, or the detector gave no landmarks.
    """
    if faces not in get_args(FaceChoice):
        raise DataError(f"faces={faces!r}: must be one of {', '.join(get_args(FaceChoice))}")
    boxes, landmarks = found.boxes, found.landmarks
    if landmarks is None:
        raise DataError("the detector gives no landmarks, by which faces are aligned")
    sides = boxes[:, 2:] - boxes[:, :2]
    good = (sides > 0).all(axis=1) & np.isfinite(landmarks).all(axis=(1, 2))
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(-sides[rows].prod(axis=1), kind="stable")]
    if faces == "center":
        middle = np.array(size_hw[::-1]) / 2
        centers = (boxes[rows, :2] + boxes[rows, 2:]) / 2
        rows = rows[np.argsort(np.linalg.norm(centers - middle, axis=1), kind="stable")]
    taken = rows if faces == "all" else rows[:1]
    return [(boxes[row], landmarks[row], float(found.scores[row])) for row in taken]
