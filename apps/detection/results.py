"""What a detector says about one picture. Free of torch."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...datasets.errors import DataError
from ..files.inputs import Picture

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """The K objects found in one picture, by falling score. K may be 0.

    Attributes:
        boxes: (K, 4) float32, xyxy in pixels of the original picture, EXIF rotation applied;
            within the picture.
        scores: (K,) float32 in [0, 1].
        labels: (K,) int64, class indices: positions in ``categories``.
        categories: category id -> name of all classes that the model knows.
        size_hw: Height and width of the original picture in pixels.
        picture: Where the pixels are.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    categories: dict[int, str]
    size_hw: tuple[int, int]
    picture: Picture

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
        """Class name -> number of objects, the most frequent first."""
        return dict(Counter(self.names).most_common())

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64, the category id of each object."""
        return np.array(list(self.categories), dtype=np.int64)[self.labels]

    def above(self, score_threshold: float) -> "DetectionResult":
        """Those objects that score at least ``score_threshold``."""
        kept = self.scores >= np.float32(score_threshold)
        return replace(
            self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept]
        )

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Rows of COCO's results format: image_id, category_id, bbox (x, y, w, h) and score.

        Args:
            image_id: The picture's id in the annotation file that the results are for.
        """
        boxes = self.boxes.astype(np.float64)
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        rows = zip(
            self.category_ids.tolist(),
            xywh.tolist(),
            self.scores.astype(np.float64).tolist(),
            strict=True,
        )
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in rows
        ]

    def to_supervision(self) -> "SupervisionDetections":
        """The same as ``supervision.Detections``, with names in ``data["class_name"]``.

        Raises:
            DataError: The package is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise DataError(
                "to_supervision() needs the package supervision: pip install supervision"
            ) from error
        return Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def plot(self, score_threshold: float = 0.0) -> Image.Image:
        """Draw the objects onto their picture, which is read again.

        Args:
            score_threshold: Objects below it are not drawn.

        Raises:
            DataError: The file can no longer be read.
        """
        from ..drawing.boxes import draw_detections

        names = list(self.categories.values())
        return Image.fromarray(draw_detections(self.picture.read(), self, names, score_threshold))
