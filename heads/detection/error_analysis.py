"""Why a detector errs: its best score threshold, its confusions, what each kind of error costs.

The kinds of errors are those of "TIDE: A General Toolbox for Identifying Object Detection Errors"
(Bolya et al. 2020, arXiv 2008.08115, Section 2.2). Detections are matched as in COCO's evaluation
at an IoU of 0.5: by falling score, each takes the free object of its class that it overlaps most;
at most 100 of a class in an image count, and what lies in a crowd region of its class does not.
No torch.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .coco_metrics import distinct_names, unknown_images

MATCH_IOU = 0.5
"""An object is found by a detection of its class that overlaps it at least so much."""
BACKGROUND_IOU = 0.1
"""A detection that overlaps no object more than this lies on background."""
ERROR_KINDS = {
    "classification": "on an object, with the class of another",
    "localization": "on an object of its class, but the box overlaps it too little (IoU below 0.5)",
    "both": "near an object of another class, and the box overlaps it too little",
    "duplicate": "on an object of its class that a detection of higher score has found",
    "background": "on no object (IoU of at most 0.1)",
    "missed": "an object that no detection is on or near",
}
"""Kind of error -> its meaning."""
BACKGROUND = "background"
"""Name of the last row and column of a confusion matrix."""

_MOST_OF_A_CLASS = 100
_POINTS = 101
_DIGITS = 5
_MISSED = list(ERROR_KINDS).index("missed")
_RIGHT, _IGNORED = -1, -2


class Decision(NamedTuple):
    """What a score threshold does; detections of at least this score count."""

    threshold: float
    precision: float
    """Share of these detections that find an object; 0 without any."""
    recall: float
    """Share of the objects that are found."""
    f1: float
    """Harmonic mean of precision and recall."""


class ClassErrors(NamedTuple):
    """One class."""

    objects: int
    """Annotated objects, without crowd regions."""
    ap50: float | None
    """Average precision at an IoU of 0.5; None without objects."""
    best: Decision | None
    """The threshold of highest F1 for this class; None where nothing is found."""
    at_best: Decision | None
    """The threshold that is best for all classes together; None without objects."""


class KindOfError(NamedTuple):
    """One kind of error."""

    ap50_cost: float
    """AP50 that would be gained if these errors alone were corrected, as in the paper (dAP)."""
    total: int
    """Number among all detections, down to the lowest score."""
    at_best: int
    """Number at the best threshold."""


class ImageErrors(NamedTuple):
    """Errors in an image at the best threshold."""

    image_id: int
    counts: dict[str, int]
    """Kind of error -> number, of the kinds that there are."""


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """The errors of a detector. C classes in the order of the categories; see `analyze_errors`."""

    dataset: str
    images: int
    per_class: dict[str, ClassErrors]
    """By class name."""
    ap50: float | None
    """Mean of the classes that have objects, COCO's AP50; None without objects."""
    best: Decision | None
    """The threshold of highest F1 over the detections of all classes; None if nothing is found."""
    kinds: dict[str, KindOfError]
    """By the names in `ERROR_KINDS`."""
    confusion: np.ndarray
    """(C + 1, C + 1) int64 at the best threshold: rows annotated, columns detected, the last of
    either is background. Objects that are found are counted on the diagonal; each other detection
    counts with a free object that it overlaps by an IoU of 0.5, whatever its class."""
    precision: np.ndarray
    """(C, 101) float64, interpolated as COCO does, at recalls 0, 0.01 .. 1; NaN without objects."""
    decisions: np.ndarray
    """(101, 3) float64: precision, recall and F1 of all classes at thresholds 0, 0.01 .. 1."""
    f1_per_class: np.ndarray
    """(C, 101) float64, at the same thresholds; NaN without objects."""
    worst: list[ImageErrors]
    """The images that have errors, most errors first."""

    def to_json(self) -> str:
        """Return everything as JSON, each entry on a line; of the images the 100 worst."""
        rounded = np.round(self.precision, _DIGITS), np.round(self.f1_per_class, _DIGITS)
        curves = [dict(zip(self.per_class, _listed(rows), strict=True)) for rows in rounded]
        points = np.linspace(0, 1, _POINTS).round(2).tolist()
        over_all = np.round(self.decisions, _DIGITS).T.tolist()
        entries = {
            "dataset": self.dataset,
            "images": self.images,
            "ap50": self.ap50,
            "best": _as_dict(self.best),
            "errors": {name: kind._asdict() for name, kind in self.kinds.items()},
            "per_class": {
                name: row._asdict() | {"best": _as_dict(row.best), "at_best": _as_dict(row.at_best)}
                for name, row in self.per_class.items()
            },
            "confusion": {
                "classes": [*self.per_class, BACKGROUND],
                "rows_annotated_columns_detected": self.confusion.tolist(),
            },
            "precision_at_recall": {"recall": points, "per_class": curves[0]},
            "at_threshold": {
                "threshold": points,
                **dict(zip(("precision", "recall", "f1"), over_all, strict=True)),
            },
            "f1_at_threshold": {"threshold": points, "per_class": curves[1]},
            "worst_images": [row._asdict() for row in self.worst[:100]],
        }
        lines = [
            f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
            for key, value in entries.items()
        ]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _as_dict(decision: Decision | None) -> dict[str, float] | None:
    return None if decision is None else decision._asdict()


def _listed(rows: np.ndarray) -> list[list[float] | None]:
    return [None if np.isnan(row[0]) else row.tolist() for row in rows]


def analyze_errors(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    dataset: str,
    categories: dict[int, str] | None = None,
    image_ids: Iterable[int] | None = None,
) -> ErrorAnalysis:
    """Find out why detections err. For the arguments see `coco_metrics.evaluate_boxes`."""
    names = categories or {row["id"]: row["name"] for row in ground_truth["categories"]}
    matched = _matched(ground_truth, results, dataset, names, image_ids)
    return matched.result(dataset, distinct_names(names))


def best_threshold(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    dataset: str,
    categories: dict[int, str],
    image_ids: Iterable[int],
) -> float | None:
    """Return ``best.threshold`` of `analyze_errors` in half the time; None if nothing is found."""
    best = _matched(ground_truth, results, dataset, categories, image_ids).best()
    return None if best is None else best.threshold


def _matched(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    dataset: str,
    names: dict[int, str],
    image_ids: Iterable[int] | None,
) -> "_Analysis":
    described = {image["id"] for image in ground_truth["images"]}
    wanted = sorted(described if image_ids is None else set(image_ids))
    if unknown := set(wanted) - described:
        raise unknown_images(dataset, unknown)
    truth = _gather(ground_truth["annotations"], wanted, names, "iscrowd")
    found = _first_of_each_class(_gather(results, wanted, names, "score"))
    return _Analysis(found, truth, wanted, len(names))


class _Boxes(NamedTuple):
    """N boxes, sorted by image."""

    images: np.ndarray
    """(N,) int64, positions in the ids of the images."""
    labels: np.ndarray
    """(N,) int64, positions in the categories."""
    xywh: np.ndarray
    """(N, 4) float64."""
    values: np.ndarray
    """(N,) float64: the scores of detections; 1 for crowd regions and 0 for other annotations."""

    def take(self, rows: np.ndarray) -> "_Boxes":
        return _Boxes(*(column[rows] for column in self))


def _gather(
    rows: Sequence[dict[str, Any]], image_ids: list[int], names: dict[int, str], value: str
) -> _Boxes:
    """Collect the rows of some images and categories; within an image they keep their order."""
    image_of = {image: position for position, image in enumerate(image_ids)}
    label_of = {category: label for label, category in enumerate(names)}
    rows = [row for row in rows if row["image_id"] in image_of and row["category_id"] in label_of]
    boxes = _Boxes(
        np.array([image_of[row["image_id"]] for row in rows], dtype=np.int64),
        np.array([label_of[row["category_id"]] for row in rows], dtype=np.int64),
        np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row.get(value, 0) for row in rows], dtype=np.float64),
    )
    return boxes.take(np.argsort(boxes.images, kind="stable"))


def _first_of_each_class(found: _Boxes) -> _Boxes:
    """Sort detections by image, class and falling score; keep as many of a class as COCO does."""
    found = found.take(np.lexsort((-found.values, found.labels, found.images)))
    changes = (np.diff(found.images, prepend=-1) != 0) | (np.diff(found.labels, prepend=-1) != 0)
    starts = np.maximum.accumulate(np.where(changes, np.arange(len(changes)), 0))
    return found.take(np.arange(len(starts)) - starts < _MOST_OF_A_CLASS)


class _Overlap:
    """How N detections overlap the objects of their images.

    Attributes:
        own, other: (N,) float64, the largest IoU with an object of the own class, and of another.
        own_row, other_row: (N,) int64, the rows of these objects; -1 where there is none.
        in_crowd: (N,) bool, whether half of the box lies in a crowd region of its class.
        pairs: (P, 2) int64, rows of detections and of objects with an IoU of at least 0.5: by
            falling score, then falling IoU.
        same: (P,) bool, whether the two are of one class.
    """

    def __init__(self, found: _Boxes, truth: _Boxes, images: int) -> None:
        count = len(found.labels)
        self.own, self.other = np.zeros(count), np.zeros(count)
        self.own_row, self.other_row = np.full(count, -1), np.full(count, -1)
        self.in_crowd = np.zeros(count, dtype=bool)
        self._pairs: list[np.ndarray] = []
        self._ious: list[np.ndarray] = []
        at_found, at_truth = (
            np.searchsorted(each.images, np.arange(images + 1)).tolist() for each in (found, truth)
        )
        for image in range(images):
            rows, objects = slice(*at_found[image : image + 2]), slice(*at_truth[image : image + 2])
            if rows.start < rows.stop and objects.start < objects.stop:
                self._compare(found, truth, rows, objects)
        pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *self._pairs])
        ious = np.concatenate([np.zeros(0), *self._ious])
        # As in COCO's loop, of equal overlaps the last object is taken.
        order = np.lexsort((-pairs[:, 1], -ious, pairs[:, 0], -found.values[pairs[:, 0]]))
        self.pairs = pairs[order]
        self.same = found.labels[self.pairs[:, 0]] == truth.labels[self.pairs[:, 1]]

    def _compare(self, found: _Boxes, truth: _Boxes, rows: slice, objects: slice) -> None:
        """Compare the detections of one image with its objects."""
        shared, areas, object_areas = _intersections(found.xywh[rows], truth.xywh[objects])
        same = found.labels[rows, None] == truth.labels[None, objects]
        crowd = truth.values[objects] != 0
        if crowd.any():
            covered = same & crowd & (shared >= MATCH_IOU * areas[:, None]) & (shared > 0)
            self.in_crowd[rows] = covered.any(axis=1)
        ious = shared / np.maximum(areas[:, None] + object_areas - shared, np.finfo(float).tiny)
        ious[:, crowd] = 0
        for best, best_row, chosen in (
            (self.own, self.own_row, np.where(same, ious, 0)),
            (self.other, self.other_row, np.where(same, 0, ious)),
        ):
            best[rows] = chosen.max(axis=1)
            best_row[rows] = objects.start + chosen.argmax(axis=1)
        near = np.argwhere(ious >= MATCH_IOU)
        self._ious.append(ious[near[:, 0], near[:, 1]])
        self._pairs.append(near + np.array([rows.start, objects.start]))


def _intersections(
    first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shared areas (N, M) of boxes (N, 4) and (M, 4) xywh, and the areas of both."""
    ends = np.minimum((first[:, :2] + first[:, 2:])[:, None], second[:, :2] + second[:, 2:])
    sides = np.maximum(ends - np.maximum(first[:, None, :2], second[:, :2]), 0)
    return sides[..., 0] * sides[..., 1], first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]


def _match(pairs: np.ndarray, taken_found: np.ndarray, taken_truth: np.ndarray) -> list[list[int]]:
    """Return the pairs that are left if each row is taken once, in order; marks them as taken."""
    used_found, used_truth = taken_found.tolist(), taken_truth.tolist()
    matched = []
    for row, at in pairs.tolist():
        if not (used_found[row] or used_truth[at]):
            used_found[row] = used_truth[at] = True
            matched.append([row, at])
    return matched


class _Analysis:
    """Detections, objects, and what became of each."""

    def __init__(self, found: _Boxes, truth: _Boxes, image_ids: list[int], classes: int) -> None:
        self.found, self.truth = found, truth
        self.image_ids, self.classes = image_ids, classes
        self.overlap = _Overlap(found, truth, len(image_ids))
        self.is_object = truth.values == 0
        self.objects = np.bincount(truth.labels[self.is_object], minlength=classes)
        self.finder = np.full(len(truth.labels), -1)
        """(M,) int64, the row of the detection that finds each object; -1 if none does."""
        pairs = self.overlap.pairs[self.overlap.same]
        none = np.zeros(len(found.labels), dtype=bool)
        matched = np.array(_match(pairs, none, ~self.is_object), dtype=np.int64).reshape(-1, 2)
        self.finder[matched[:, 1]] = matched[:, 0]
        self.kind = self._kinds(matched[:, 0])
        """(N,) int64: a position in `ERROR_KINDS`, -1 is right and -2 ignored."""
        self.counted = self.kind != _IGNORED
        self.right = self.kind == _RIGHT

    def _kinds(self, right: np.ndarray) -> np.ndarray:
        """Find the kind of each detection; the order of the questions is the reference's."""
        own, other, is_right = self.overlap.own, self.overlap.other, np.zeros(len(self.overlap.own))
        is_right[right] = 1
        questions = {
            _RIGHT: is_right == 1,
            _IGNORED: self.overlap.in_crowd,
            "localization": (own >= BACKGROUND_IOU) & (own <= MATCH_IOU),
            "classification": other >= MATCH_IOU,
            "duplicate": own >= MATCH_IOU,
            "background": np.maximum(own, other) <= BACKGROUND_IOU,
        }
        names = list(ERROR_KINDS)
        answers = [key if isinstance(key, int) else names.index(key) for key in questions]
        return np.select(list(questions.values()), answers, names.index("both"))

    # --- the threshold

    def best(self, label: int | None = None) -> Decision | None:
        """Return the threshold of highest F1 of a class or of all, halfway to the next score."""
        chosen = self._of(label)
        order = np.argsort(-self.found.values[chosen], kind="stable")
        scores, right = self.found.values[chosen][order], self.right[chosen][order]
        if not right.any():
            return None
        last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        hits = np.cumsum(right)[last]
        f1 = 2 * hits / (last + 1 + self._objects(label))
        best = int(f1.argmax())
        lower = scores[last[best + 1]] if best + 1 < len(last) else scores[last[best]]
        return self.decide(float(scores[last[best]] + lower) / 2, label)

    def decide(self, threshold: float, label: int | None = None) -> Decision:
        """Return what a threshold does, for a class or for all."""
        return Decision(threshold, *map(float, self._measures([threshold], label)[0]))

    def _measures(self, thresholds: Sequence[float] | np.ndarray, label: int | None) -> np.ndarray:
        """Return precision, recall and F1 (T, 3) of thresholds (T,)."""
        chosen, objects = self._of(label), self._objects(label)
        hits, shown = (
            len(scores) - np.searchsorted(np.sort(scores), thresholds)
            for scores in (self.found.values[chosen & self.right], self.found.values[chosen])
        )
        parts = (hits / np.maximum(shown, 1), hits / max(objects, 1),
                 2 * hits / np.maximum(shown + objects, 1))  # fmt: skip
        return np.stack(parts, axis=1)

    def _of(self, label: int | None) -> np.ndarray:
        return self.counted if label is None else self.counted & (self.found.labels == label)

    def _objects(self, label: int | None) -> int:
        return int(self.objects.sum() if label is None else self.objects[label])

    # --- errors

    def _aimed(self, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of shown detections that err in class or place, and of their objects."""
        names = list(ERROR_KINDS)
        wrong_class = self.kind == names.index("classification")
        erring = shown & (wrong_class | (self.kind == names.index("localization")))
        aims = np.where(wrong_class, self.overlap.other_row, self.overlap.own_row)
        return np.flatnonzero(erring), aims[erring]

    def missed(self, threshold: float | None = None) -> np.ndarray:
        """Return (M,) bool: objects that no detection of a threshold or any finds or aims at."""
        shown = self._shown(threshold)
        seen = np.append(shown, False)[self.finder]
        seen[self._aimed(shown)[1]] = True
        return self.is_object & ~seen

    def _shown(self, threshold: float | None) -> np.ndarray:
        low = -np.inf if threshold is None else threshold
        return self.counted & (self.found.values >= low)

    def precisions(self, kind: int | None = None) -> np.ndarray:
        """Return (C, 101) precision, as if all errors of a kind were corrected."""
        labels, right, kept = self.found.labels.copy(), self.right.copy(), self.counted.copy()
        objects = self.objects
        if kind == _MISSED:
            objects = objects - np.bincount(
                self.truth.labels[self.missed()], minlength=self.classes
            )
        elif kind is not None:
            corrected = self._corrected()
            corrected = corrected[self.kind[corrected[:, 0]] == kind]
            kept &= self.kind != kind
            kept[corrected[:, 0]] = right[corrected[:, 0]] = True
            labels[corrected[:, 0]] = self.truth.labels[corrected[:, 1]]
        rows = np.flatnonzero(kept)
        rows = rows[np.lexsort((-self.found.values[rows], labels[rows]))]
        edges = np.searchsorted(labels[rows], np.arange(self.classes + 1))
        return np.array([
            _interpolated(right[rows[start:end]], count)
            for start, end, count in zip(edges[:-1], edges[1:], objects, strict=True)
        ]).reshape(self.classes, _POINTS)  # fmt: skip

    def _corrected(self) -> np.ndarray:
        """Return rows (K, 2) of detections that would be right, and of the objects they would find.

        Of several errors on one object, the one of highest score is corrected.
        """
        rows, aims = self._aimed(self.counted)
        free = self.finder[aims] < 0
        rows, aims = rows[free], aims[free]
        order = np.argsort(-self.found.values[rows], kind="stable")
        _, first = np.unique(aims[order], return_index=True)
        return np.stack((rows[order][first], aims[order][first]), axis=1)

    def confusion(self, threshold: float) -> np.ndarray:
        """Return the confusion matrix (C + 1, C + 1) of a threshold."""
        shown = self._shown(threshold)
        found_by = np.where(np.append(shown, False)[self.finder], self.finder, -1)
        seen = found_by >= 0
        pairs = self.overlap.pairs[~self.overlap.same]
        confused = np.array(
            _match(pairs, ~shown | self.right, seen | ~self.is_object), dtype=np.int64
        ).reshape(-1, 2)
        found_by[confused[:, 1]] = confused[:, 0]
        matrix = np.zeros((self.classes + 1, self.classes + 1), dtype=np.int64)
        detected = np.append(self.found.labels, self.classes)[found_by]
        np.add.at(matrix, (self.truth.labels[self.is_object], detected[self.is_object]), 1)
        shown[found_by[found_by >= 0]] = False
        matrix[-1, :-1] = np.bincount(self.found.labels[shown], minlength=self.classes)
        return matrix

    def counts(self, threshold: float | None) -> np.ndarray:
        """Return the number of errors of each kind in each image (I, 6)."""
        counts = np.zeros((len(self.image_ids), len(ERROR_KINDS)), dtype=np.int64)
        wrong = self._shown(threshold) & (self.kind >= 0)
        np.add.at(counts, (self.found.images[wrong], self.kind[wrong]), 1)
        missed = self.missed(threshold)
        counts[:, _MISSED] = np.bincount(self.truth.images[missed], minlength=len(counts))
        return counts

    # --- together

    def result(self, dataset: str, names: dict[int, str]) -> ErrorAnalysis:
        """Return the measures."""
        precision, best = self.precisions(), self.best()
        threshold = 1.0 if best is None else best.threshold
        curve = np.linspace(0, 1, _POINTS)
        by_class = np.array([self._measures(curve, label)[:, 2] for label in range(self.classes)])
        by_class = by_class.reshape(self.classes, _POINTS)
        by_class[self.objects == 0] = np.nan
        ap50 = precision.mean(axis=1)
        per_class = {
            name: ClassErrors(int(count), None, None, None)
            if count == 0
            else ClassErrors(int(count), float(ap50[label]), self.best(label),
                             self.decide(threshold, label))
            for label, (name, count) in enumerate(zip(names.values(), self.objects, strict=True))
        }  # fmt: skip
        at_best = self.counts(threshold)
        return ErrorAnalysis(
            dataset=dataset,
            images=len(self.image_ids),
            per_class=per_class,
            ap50=_mean_ap(precision),
            best=best,
            kinds=self._all_kinds(precision, at_best),
            confusion=self.confusion(threshold),
            precision=precision,
            decisions=self._measures(curve, None),
            f1_per_class=by_class,
            worst=self._worst(at_best),
        )

    def _all_kinds(self, precision: np.ndarray, at_best: np.ndarray) -> dict[str, KindOfError]:
        now = _mean_ap(precision) or 0.0
        counts = self.counts(None).sum(axis=0)
        kinds = {}
        for kind, name in enumerate(ERROR_KINDS):
            # Interpolation can make a correction look harmful by a trifle, which counts as none.
            gained = max((_mean_ap(self.precisions(kind)) or 0.0) - now, 0.0)
            kinds[name] = KindOfError(gained, int(counts[kind]), int(at_best[:, kind].sum()))
        return kinds

    def _worst(self, counts: np.ndarray) -> list[ImageErrors]:
        totals = counts.sum(axis=1)
        order = np.argsort(-totals, kind="stable")[: np.count_nonzero(totals)]
        return [
            ImageErrors(self.image_ids[image], {
                name: count
                for name, count in zip(ERROR_KINDS, counts[image].tolist(), strict=True)
                if count
            })
            for image in order.tolist()
        ]  # fmt: skip


def _interpolated(right: np.ndarray, objects: int) -> np.ndarray:
    """Return the precision (101,) at recalls 0, 0.01 .. 1 of detections by falling score."""
    if not objects:
        return np.full(_POINTS, np.nan)
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return precision[np.searchsorted(hits / objects, np.linspace(0, 1, _POINTS))]


def _mean_ap(precision: np.ndarray) -> float | None:
    measured = precision[~np.isnan(precision[:, 0])] if len(precision) else precision
    return float(measured.mean()) if measured.size else None
