"""Training and measuring a face detector with Lightning."""

from typing import Any, cast

from torch import Tensor

from ...datasets.errors import DataError
from ...datasets.images import fit_within
from ...datasets.types import DetectionBatch
from ..detection.coco_metrics import CocoResult
from ..detection.task import DetectionTask
from .metrics import FaceDetectionResult, FaceEvaluator, format_faces


class FaceDetectionTask(DetectionTask):
    """Train, validate, test and predict with a face detector, such as ``RetinaFace``.

    It is a ``DetectionTask`` on letterboxed images. On WIDER FACE it also logs ``val/easy``,
    ``val/medium`` and ``val/hard``, likewise ``test/...``.

    Args:
        **options: See ``DetectionTask``.
    """

    kind = "a face detector"

    table = staticmethod(format_faces)

    def make_evaluator(self, dataset: Any) -> FaceEvaluator:
        """Return the evaluator of faces.

        Raises:
            DataError: The images are not letterboxed.
        """
        if not getattr(dataset.transform, "keeps_shape", False):
            raise DataError(
                f"{dataset.name}: a face detector is measured on images that keep their shape, not "
                f"by {type(dataset.transform).__name__}. Take FaceDetectionDataModule, or Letterbox"
                " for data.val_transform."
            )
        truth, subsets = dataset.ground_truth, dataset.annotations.subsets
        return FaceEvaluator(truth, dataset.categories, dataset.name, subsets)

    def scales(self, batch: DetectionBatch) -> Tensor:
        """Return pixels of the original images (B, 2) float, x and y, for each of the input's."""
        height, width = (int(size) for size in batch.images.shape[-2:])
        fitted = [fit_within((h, w), (height, width)) for h, w in batch.sizes_hw.tolist()]
        return (batch.sizes_hw / batch.sizes_hw.new_tensor(fitted)).flip(1)

    def numbers(self, result: CocoResult) -> dict[str, float]:
        """Return COCO's twelve numbers, and those of WIDER FACE."""
        return super().numbers(result) | cast(FaceDetectionResult, result).wider_face
