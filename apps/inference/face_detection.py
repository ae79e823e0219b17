"""Face detection from Python: boxes, five landmarks and scores in images of any size.

    from mobilevision.apps import FaceDetector

    detector = FaceDetector.load()  # the public weights; or a checkpoint of yours
    result = detector("party.jpg")
    result.boxes, result.landmarks, result.scores

No torch: the runtime of a model's file is imported when the model is loaded.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from ...datasets.errors import DataError
from ...datasets.images import fit_within, letterbox, stretch
from .detection import OUTPUTS, DetectionResult, Detector, scales_xy
from .predictor import ImageSource, Prepared
from .runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...heads.detection.task import DetectionNetwork
    from ...heads.face_detection.task import FaceDetectionTask
    from ...heads.task import ImageTask

MAX_SIDE = 1024
"""Longer side in pixels to which larger images are reduced before faces are searched for."""


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
    default = "retinaface_mobilenet_0.25"
    named_outputs: ClassVar[Mapping[str, str]] = {
        **OUTPUTS,
        "landmarks": "(batch, detections, 5, 2) float32: x, y in the same pixels: eyes, nose, "
        "corners of the mouth, as seen in the image left before right",
    }

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
        """See ``Predictor``; ``size_hw`` and ``max_side`` as for the class."""
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

    def prepare(self, image: ImageSource) -> Prepared:
        """Read an image, and reduce or letterbox it."""
        pixels = image.read()
        size_hw = (pixels.shape[0], pixels.shape[1])
        if self.letterboxed:
            return Prepared(letterbox(pixels, self.size_hw), size_hw)
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
