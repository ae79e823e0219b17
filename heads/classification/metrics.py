"""Top-1, top-5 and the measures of each class, batch by batch, under any number of processes.

torch is imported only where tensors arrive.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ..distributed import SampleEvaluator

if TYPE_CHECKING:
    from torch import Tensor

TOP = 5
NO_LABEL = -1
"""Label of an image whose class is not known: it is predicted, and not measured."""
_SHOWN_CLASSES = 20
_LONGEST_NAME = 32


class ClassFigures(NamedTuple):
    """One class: figures are in [0, 1], and None where there is nothing to divide by."""

    images: int
    """Images of the class."""
    accuracy: float | None
    """Of all images, those where "this class or not" is right; high for any rare class."""
    precision: float | None
    """Of the images predicted to be of this class, those that are."""
    recall: float | None
    """Of the images of this class, those predicted to be."""
    f1: float | None
    """Harmonic mean of precision and recall; 0 where nothing was right."""


class ClassificationResult(NamedTuple):
    """The measures of an evaluation."""

    dataset: str
    images: int
    top1: float
    """Share of the images whose class has the highest score."""
    top5: float
    """Share of the images whose class is among the five highest scores."""
    per_class: dict[str, ClassFigures]
    confusion: np.ndarray
    """(C, C) int64: rows are true classes, columns predicted ones."""

    def to_json(self) -> str:
        """Return the measures as JSON, without the confusion matrix."""
        content = {
            "dataset": self.dataset,
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "per_class": {name: row._asdict() for name, row in self.per_class.items()},
        }
        return json.dumps(content, indent=1) + "\n"


class Predictions(NamedTuple):
    """Predictions for N images."""

    ids: np.ndarray
    """(N,) int64."""
    labels: np.ndarray
    """(N,) int64, class index, -1 where it is not known."""
    classes: np.ndarray
    """(N, K) int64, K = min(5, C) classes by falling score."""
    scores: np.ndarray
    """(N, K) float32, their softmax scores."""


class ClassificationEvaluator(SampleEvaluator[Predictions]):
    """Collects predictions of the classes ``categories``, in class order, and measures them."""

    columns = ("label", "predicted", "score", "top5")

    def __init__(self, categories: Sequence[str], dataset: str) -> None:
        super().__init__(dataset)
        self.names = list(categories)

    def update(
        self, ids: "Tensor", labels: "Tensor", logits: "Tensor", paths: Sequence[str] = ()
    ) -> None:
        """Add a batch: ids and labels (B,) int64, -1 for an unknown class, logits (B, C), B files.

        Raises:
            DataError: A class index that there is no name for.
            ValueError: A logit is not finite.
        """
        known = len(self.names)
        if logits.shape[1] != known or int(labels.max()) >= known or int(labels.min()) < NO_LABEL:
            raise DataError(
                f"{self.dataset}: the model has {logits.shape[1]} classes, the data {known} names "
                f"and labels from {int(labels.min())} to {int(labels.max())}. Evaluate on data "
                "with the model's classes."
            )
        self.require_finite(logits)
        scores, classes = logits.detach().float().softmax(dim=1).topk(min(TOP, known), dim=1)
        arrays = (each.cpu().numpy() for each in (ids, labels, classes, scores))
        self.add(Predictions(*arrays), paths)

    def compute(self) -> ClassificationResult:
        """Gather, then `measure`; call it on all processes, which get the same result."""
        return measure(self.gather(), self.names, self.dataset)

    def rows(self, samples: Predictions) -> Iterator[tuple[str, ...]]:
        """Return true class, predicted class, its score and the best five of each image."""
        for _, label, classes, scores in zip(*(c.tolist() for c in samples), strict=True):
            names = [self.names[index] for index in classes]
            true = "" if label == NO_LABEL else self.names[label]
            yield true, names[0], f"{scores[0]:.6f}", " | ".join(names)


def measure(
    predictions: Predictions, categories: Sequence[str], dataset: str
) -> ClassificationResult:
    """Measure predictions, of which images without a known class are left out.

    It is a DataError if no image has one.
    """
    labeled = predictions.labels != NO_LABEL
    if not labeled.any():
        raise DataError(f"{dataset}: no image has a known class, so nothing can be measured")
    labels, classes = predictions.labels[labeled], predictions.classes[labeled]
    hits = classes == labels[:, None]
    confusion = np.zeros((len(categories), len(categories)), dtype=np.int64)
    np.add.at(confusion, (labels, classes[:, 0]), 1)
    return ClassificationResult(
        dataset=dataset,
        images=int(labeled.sum()),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        per_class=class_figures(confusion, categories),
        confusion=confusion,
    )


def class_figures(confusion: np.ndarray, categories: Sequence[str]) -> dict[str, ClassFigures]:
    """Return accuracy, precision, recall and F1 of each class from a confusion matrix (C, C)."""
    right = np.diag(confusion).tolist()
    counts, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    total = int(confusion.sum())
    figures: dict[str, ClassFigures] = {}
    for name, hit, count, given in zip(categories, right, counts, predicted, strict=True):
        right_or_not = total - count - given + 2 * hit
        figures[name] = ClassFigures(
            images=count, accuracy=_share(right_or_not, total), precision=_share(hit, given),
            recall=_share(hit, count), f1=_share(2 * hit, count + given),
        )  # fmt: skip
    return figures


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def format_table(result: ClassificationResult, most: int = _SHOWN_CLASSES) -> str:
    """Format top-1, top-5 and the classes by rising F1, at most ``most`` of them, as text."""
    lines = [
        f"Classification of {result.dataset}: {result.images:,} images",
        f" top-1 {result.top1:.4f}   top-5 {result.top5:.4f}",
    ]
    measured = {name: row for name, row in result.per_class.items() if row.images}
    ordered = sorted(measured.items(), key=lambda item: (item[1].f1 or 0.0, item[0]))[:most]
    absent = len(result.per_class) - len(measured)
    shown = f"{len(ordered)} of {len(measured)} classes, the worst first"
    lines.append(f"{shown}{f'; {absent} without images' if absent else ''}")
    width = min(max((len(name) for name, _ in ordered), default=5), _LONGEST_NAME)
    lines.append(f" {'class':<{width}}  images  precision  recall     F1")
    for name, row in ordered:
        short = name if len(name) <= width else name[: width - 1] + "…"
        cells = [f"{'-' if x is None else f'{x:.3f}':>9}" for x in (row.precision, row.recall)]
        lines.append(f" {short:<{width}}  {row.images:>6}  {cells[0]}{cells[1][1:]}  {row.f1:.3f}")
    return "\n".join(lines) + "\n"
