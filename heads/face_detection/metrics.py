"""WIDER FACE's own measure: average precision of easy, medium and hard faces. Needs no torch.

The protocol of the evaluation tools of the release (Yang et al. 2016, Section 5.1):

- The scores of all images together are scaled to [0, 1].
- In each image, by falling score, a detection belongs to the face that it overlaps most, if their
  IoU is at least 0.5, with sides counted in whole pixels, both ends included.
- If the subset does not count that face, the detection counts neither for nor against. The first
  detection of a face that counts finds it; later ones of it and those of no face are wrong.
- Precision and recall are taken at 1,000 equal steps of the score, and their area is that of Pascal
  VOC 2010, over precision made monotonous.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..detection.coco_metrics import NO_GROUND_TRUTH, CocoEvaluator, CocoResult, format_table

STEPS = 1000
IOU = 0.5


@dataclass(frozen=True)
class FaceDetectionResult(CocoResult):
    """COCO's measures, and WIDER FACE's where the data has its subsets."""

    wider_face: dict[str, float] = field(default_factory=dict)
    """Subset (easy, medium, hard) -> average precision in [0, 1]; -1 where no face counts."""

    def as_dict(self) -> dict[str, Any]:
        """Return what ``CocoResult`` does, and ``wider_face`` if there is any."""
        own = {"wider_face": self.wider_face} if self.wider_face else {}
        return super().as_dict() | own


class FaceEvaluator(CocoEvaluator):
    """Collects faces batch by batch and measures them by COCO and by WIDER FACE.

    Args:
        ground_truth: See ``CocoEvaluator``.
        categories: See ``CocoEvaluator``.
        dataset: See ``CocoEvaluator``.
        subsets: Subset -> ids of the annotations that count.
    """

    def __init__(
        self,
        ground_truth: dict[str, Any],
        categories: dict[int, str],
        dataset: str,
        subsets: Mapping[str, frozenset[int]],
    ) -> None:
        super().__init__(ground_truth, categories, dataset)
        self.subsets = subsets

    def compute(self) -> FaceDetectionResult:
        """Gather, then measure; call it on all processes, which get the same result."""
        result = super().compute()
        precisions = {}
        if self.subsets:
            precisions = subset_precisions(
                self.ground_truth["annotations"], self.results(), self.subsets, self._found
            )
        return FaceDetectionResult(**vars(result), wider_face=precisions)


def subset_precisions(
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    subsets: Mapping[str, frozenset[int]],
    image_ids: Mapping[int, Any] | set[int],
) -> dict[str, float]:
    """Return the average precision of each subset, in [0, 1]; -1 where no face counts.

    Args:
        annotations: All faces, also ignored ones, as COCO annotations: ``id``, ``image_id``,
            ``bbox`` (x, y, width, height in pixels).
        results: Detections in COCO's results format.
        subsets: Subset -> ids of the annotations that count.
        image_ids: The images to measure on.
    """
    faces: dict[int, list[Mapping[str, Any]]] = {image: [] for image in image_ids}
    found: dict[int, list[Mapping[str, Any]]] = {image: [] for image in image_ids}
    for rows, of_image in ((annotations, faces), (results, found)):
        for row in rows:
            if row["image_id"] in of_image:
                of_image[row["image_id"]].append(row)
    scores = np.array([row["score"] for rows in found.values() for row in rows])
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
    scale = (high - low) or 1.0
    images = [
        _matched(faces[image], found[image], lambda x: (x - low) / scale) for image in image_ids
    ]
    return {name: _average_precision(images, counted) for name, counted in subsets.items()}


class _Matched(NamedTuple):
    """The detections of an image by falling score, and the face of each."""

    scores: np.ndarray
    """(K,) scaled."""
    faces: np.ndarray
    """(K,) position of the face, -1 for none."""
    ids: np.ndarray
    """(N,) ids of the faces."""


def _matched(faces: Sequence[Any], found: Sequence[Any], scaled: Any) -> _Matched:
    ids = np.array([row["id"] for row in faces], dtype=np.int64)
    scores = scaled(np.array([row["score"] for row in found], dtype=np.float64))
    order = np.argsort(-scores, kind="stable")
    if not len(ids) or not len(order):
        return _Matched(scores[order], np.full(len(order), -1), ids)
    a, b = (np.array([row["bbox"] for row in rows], dtype=np.float64) for rows in (found, faces))
    overlaps = _iou(a[order], b)
    best = overlaps.argmax(axis=1)
    return _Matched(scores[order], np.where(overlaps.max(axis=1) >= IOU, best, -1), ids)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return IoU (K, N) of boxes (K, 4) and (N, 4), xywh, whose last pixels belong to them."""
    first, second = a[:, None], b[None]
    starts = np.maximum(first[..., :2], second[..., :2])
    ends = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = (ends - starts + 1).clip(0).prod(axis=2)
    areas = [(boxes[..., 2:] + 1).prod(axis=2) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared)


def _average_precision(images: Sequence[_Matched], counted: frozenset[int]) -> float:
    thresholds = 1 - np.arange(1, STEPS + 1) / STEPS
    proposed, recalled, total = np.zeros(STEPS), np.zeros(STEPS), 0
    for image in images:
        counts = np.isin(image.ids, list(counted))
        total += int(counts.sum())
        if not len(image.ids):
            continue  # as in the official tools, where such an image costs nothing
        # The last entry stands for no face.
        matters = np.append(counts, True)[image.faces]
        hit = (image.faces >= 0) & matters
        first = np.zeros(len(hit), dtype=bool)
        rows = np.flatnonzero(hit)
        first[rows[np.unique(image.faces[rows], return_index=True)[1]]] = True
        above = np.searchsorted(-image.scores, -thresholds, side="right")
        for sums, values in ((proposed, matters), (recalled, first)):
            sums[:] += np.append(0, np.cumsum(values))[above]
    if not total:
        return NO_GROUND_TRUTH
    precision = recalled / proposed.clip(1)
    recall = np.concatenate([[0.0], recalled / total, [1.0]])
    envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    return float((np.diff(recall) * envelope).sum())


def format_faces(result: FaceDetectionResult) -> str:
    """Format COCO's table, and WIDER FACE's average precision below it."""
    table = format_table(result)
    if not result.wider_face:
        return table
    rows = "".join(f" {name:<8}{value:.3f}\n" for name, value in result.wider_face.items())
    return f"{table}WIDER FACE, average precision at IoU 0.50\n{rows}"
