"""COCO average precision and recall for boxes, batch by batch, under any number of processes.

torch is imported only where tensors arrive, so a results file is evaluated without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from .coco_engine import NO_GROUND_TRUTH, CocoResult, evaluate_boxes, unknown_images

if TYPE_CHECKING:
    from torch import Tensor

    from ...datasets.types import Detections

_LINES = {  # key: what is measured, IoU, area of the objects, detections of each class in an image
    "AP": ("Average Precision  (AP)", "0.50:0.95", "all", 100),
    "AP50": ("Average Precision  (AP)", "0.50", "all", 100),
    "AP75": ("Average Precision  (AP)", "0.75", "all", 100),
    "APs": ("Average Precision  (AP)", "0.50:0.95", "small", 100),
    "APm": ("Average Precision  (AP)", "0.50:0.95", "medium", 100),
    "APl": ("Average Precision  (AP)", "0.50:0.95", "large", 100),
    "AR1": ("Average Recall     (AR)", "0.50:0.95", "all", 1),
    "AR10": ("Average Recall     (AR)", "0.50:0.95", "all", 10),
    "AR100": ("Average Recall     (AR)", "0.50:0.95", "all", 100),
    "ARs": ("Average Recall     (AR)", "0.50:0.95", "small", 100),
    "ARm": ("Average Recall     (AR)", "0.50:0.95", "medium", 100),
    "ARl": ("Average Recall     (AR)", "0.50:0.95", "large", 100),
}
_TABLE_WIDTH = 80
_LONGEST_NAME = 24


class _Found(NamedTuple):
    """The detections in one picture."""

    boxes_xywh: np.ndarray
    """(K, 4) float64, pixels of the original picture."""
    scores: np.ndarray
    """(K,) float64."""
    labels: np.ndarray
    """(K,) int64, class index."""


class CocoEvaluator:
    """Collects detections batch by batch and measures them once all are there.

    Right under torch.distributed: detections are gathered by image id, and the duplicates with
    which Lightning pads the last batch are dropped. Only pictures that were seen are measured, so
    ``limit_val_batches`` works; the result tells how many that were.
    """

    def __init__(
        self, ground_truth: dict[str, Any], categories: dict[int, str], dataset: str
    ) -> None:
        """Start with nothing seen.

        Args:
            ground_truth: a COCO annotation file as dict (``images``, ``annotations``).
            categories: category id to name; class index i is the i-th of them.
            dataset: the name to report.
        """
        self.ground_truth = ground_truth
        self.categories = categories
        self.dataset = dataset
        self._known = {image["id"] for image in ground_truth["images"]}
        self._category_ids = np.array(list(categories), dtype=np.int64)
        self._found: dict[int, _Found] = {}

    def reset(self) -> None:
        """Forget all detections, for the next epoch."""
        self._found = {}

    def update(self, image_ids: "Tensor", detections: "Detections") -> None:
        """Add a batch. A picture that was seen already keeps its first detections.

        Args:
            image_ids: (B,) int64, ids of the ground truth.
            detections: (B, K, ...), boxes in pixels of the original pictures; rows with label -1
                are padding.

        Raises:
            DataError: an image id or a class index that the ground truth does not have.
            ValueError: a box or score that is not finite, or a box of negative size.
        """
        ids: list[int] = image_ids.tolist()
        if unknown := set(ids) - self._known:
            raise unknown_images(self.dataset, unknown)
        boxes = detections.boxes.detach().cpu().double().numpy()
        scores = detections.scores.detach().cpu().double().numpy()
        labels = detections.labels.cpu().numpy()
        real = labels >= 0
        xywh = np.concatenate((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), axis=-1)
        self._check(ids, xywh, scores, labels, real)
        for row, image_id in enumerate(ids):
            kept = real[row]
            found = _Found(xywh[row][kept], scores[row][kept], labels[row][kept])
            self._found.setdefault(image_id, found)

    def _check(
        self,
        ids: list[int],
        xywh: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        real: np.ndarray,
    ) -> None:
        finite = np.isfinite(xywh).all(axis=-1) & np.isfinite(scores)
        bad = real & ~(finite & (xywh[..., 2:] >= 0).all(axis=-1))
        if bad.any():
            image, row = np.argwhere(bad)[0]
            raise ValueError(
                f"image {ids[image]}: detection {row} has the box (x, y, width, height) "
                f"{xywh[image, row].tolist()} and the score {scores[image, row]}. The weights may "
                "hold NaN: has the training diverged?"
            )
        if labels.max(initial=0) >= len(self._category_ids):
            raise DataError(
                f"{self.dataset}: the model finds class {labels.max()}, the data has "
                f"{len(self._category_ids)} classes. Evaluate on data with the model's classes."
            )

    def gather(self) -> None:
        """Give every process the detections of all; call it on all of them.

        Where two processes saw the same picture, the one of lower rank counts on all. Does nothing
        in a single process.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        parts: list[dict[int, _Found]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self._found)
        merged: dict[int, _Found] = {}
        for part in reversed(parts):
            merged.update(part)
        self._found = merged

    def results(self) -> list[dict[str, Any]]:
        """The detections so far in the COCO results format, by image id; JSON writes them exactly.

        After :meth:`gather` or :meth:`compute`, those of all processes.
        """
        rows: list[dict[str, Any]] = []
        for image_id, found in sorted(self._found.items()):
            categories = self._category_ids[found.labels].tolist()
            rows += [
                {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
                for category, box, score in zip(
                    categories, found.boxes_xywh.tolist(), found.scores.tolist(), strict=True
                )
            ]
        return rows

    def compute(self) -> CocoResult:
        """Gather, then measure; call it on all processes, which get the same result."""
        self.gather()
        return evaluate_boxes(
            self.ground_truth, self.results(), self.dataset, self.categories, self._found
        )


def write_metrics(path: Path, result: CocoResult) -> None:
    """Write the result as JSON (``coco_metrics.json``), atomically."""
    write_atomically(path, result.to_json().encode())


def format_table(result: CocoResult) -> str:
    """The twelve numbers as pycocotools prints them and the classes by falling AP.

    Plain text, at most 80 characters a line; a class without ground truth has "-".
    """
    part = f" of {result.images_total:,}" if result.images < result.images_total else ""
    lines = [f"COCO boxes on {result.dataset}: {result.images:,}{part} images"]
    for key, (measure, iou, area, most) in _LINES.items():
        lines.append(
            f" {measure} @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] "
            f"= {result.numbers[key]:.3f}"
        )
    if NO_GROUND_TRUTH in result.numbers.values():
        lines.append(" -1.000: the ground truth has no such object")
    measured = sum(value is not None for value in result.per_class.values())
    lines.append(f"AP of each class ({measured} of {len(result.per_class)} have ground truth)")
    return "\n".join(lines + _class_columns(result.per_class)) + "\n"


def _class_columns(per_class: dict[str, float | None]) -> list[str]:
    ordered = sorted(per_class.items(), key=lambda item: -1 if item[1] is None else item[1])[::-1]
    width = min(max(map(len, per_class), default=0), _LONGEST_NAME)
    cells = [
        f" {name if len(name) <= width else name[: width - 1] + '…':<{width}} "
        f"{'    -' if value is None else f'{value:.3f}'}"
        for name, value in ordered
    ]
    columns = max(1, (_TABLE_WIDTH + 2) // (width + 9))
    height = -(-len(cells) // columns)
    return ["  ".join(cells[row::height]) for row in range(height)]
