"""Top-1, top-5 and what happens to each class, batch by batch, under any number of processes.

torch is imported only where tensors arrive.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ..distributed import gather_by_id

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
    """Of all images, those where "this class or not" is decided rightly. High for any rare
    class, so rather look at the others."""
    precision: float | None
    """Of the images that were given this class, those that belong to it."""
    recall: float | None
    """Of the images of this class, those that were given it."""
    f1: float | None
    """Harmonic mean of precision and recall; 0 where nothing was right."""


class ClassificationResult(NamedTuple):
    """What an evaluation measured."""

    dataset: str
    images: int
    """Images that were measured."""
    top1: float
    """Share of the images whose class has the highest score."""
    top5: float
    """Share of the images whose class is among the five highest scores."""
    per_class: dict[str, ClassFigures]
    confusion: np.ndarray
    """(C, C) int64: rows are true classes, columns what was said."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the confusion matrix is left out."""
        return {
            "dataset": self.dataset,
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "per_class": {name: row._asdict() for name, row in self.per_class.items()},
        }


class Predictions(NamedTuple):
    """What was said of N images, sorted by id, each image once."""

    ids: np.ndarray
    """(N,) int64."""
    labels: np.ndarray
    """(N,) int64, class index, -1 where it is not known."""
    classes: np.ndarray
    """(N, K) int64, K = min(5, C) classes by falling score."""
    scores: np.ndarray
    """(N, K) float32, their softmax scores."""


class ClassificationEvaluator:
    """Collects what a classifier says and measures it once all is there.

    Right under torch.distributed: images are told apart by id, and the duplicates with which
    Lightning pads the last batch are dropped.

    Args:
        categories: Class names in the order of the class index.
        dataset: The name to report.
    """

    def __init__(self, categories: Sequence[str], dataset: str) -> None:
        self.names = list(categories)
        self.dataset = dataset
        self._parts: list[Predictions] = []
        self._paths: dict[int, str] = {}

    def update(
        self, ids: "Tensor", labels: "Tensor", logits: "Tensor", paths: Sequence[str] = ()
    ) -> None:
        """Add a batch.

        Args:
            ids: (B,) int64, which image of the data set.
            labels: (B,) int64, true class, -1 where it is not known.
            logits: (B, C) float.
            paths: B files, for ``predictions.csv``.

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
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"{self.dataset}: a logit is not finite. The weights may hold NaN: has the "
                "training diverged?"
            )
        scores, classes = logits.detach().float().softmax(dim=1).topk(min(TOP, known), dim=1)
        numbers = ids.cpu().numpy()
        self._parts.append(
            Predictions(numbers, labels.cpu().numpy(), classes.cpu().numpy(), scores.cpu().numpy())
        )
        self._paths.update(zip(numbers.tolist(), paths, strict=False))

    def gather(self) -> Predictions:
        """Give every process the predictions of all; call it on all of them.

        Raises:
            DataError: There are none.
        """
        merged, self._paths = gather_by_id(self._parts, self._paths, self.dataset)
        self._parts = [merged]
        return merged

    def compute(self) -> ClassificationResult:
        """Gather, then measure; call it on all processes, which get the same result.

        Raises:
            DataError: No image has a known class.
        """
        return measure(self.gather(), self.names, self.dataset)

    def to_csv(self) -> str:
        """Return one line an image: file, true class, predicted class, its score, the best five.

        After :meth:`gather` or :meth:`compute`, those of all processes.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "label", "predicted", "score", "top5"])
        for part in self._parts:
            for number, label, classes, scores in zip(*(c.tolist() for c in part), strict=True):
                names = [self.names[index] for index in classes]
                true = "" if label == NO_LABEL else self.names[label]
                writer.writerow(
                    [self._paths.get(number, number), true, names[0], f"{scores[0]:.6f}",
                     " | ".join(names)]
                )  # fmt: skip
        return text.getvalue()


def measure(
    predictions: Predictions, categories: Sequence[str], dataset: str
) -> ClassificationResult:
    """Measure predictions; images without a known class are left out.

    Raises:
        DataError: No image has a known class.
    """
    labeled = predictions.labels != NO_LABEL
    if not labeled.any():
        raise DataError(f"{dataset}: no image has a known class, so nothing can be measured")
    labels, said = predictions.labels[labeled], predictions.classes[labeled]
    hits = said == labels[:, None]
    confusion = np.zeros((len(categories), len(categories)), dtype=np.int64)
    np.add.at(confusion, (labels, said[:, 0]), 1)
    return ClassificationResult(
        dataset=dataset,
        images=int(labeled.sum()),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        per_class=class_figures(confusion, categories),
        confusion=confusion,
    )


def class_figures(confusion: np.ndarray, categories: Sequence[str]) -> dict[str, ClassFigures]:
    """Accuracy, precision, recall and F1 of each class from a confusion matrix (C, C)."""
    right = np.diag(confusion).tolist()
    counts, said = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    total = int(confusion.sum())
    figures: dict[str, ClassFigures] = {}
    for name, hit, count, given in zip(categories, right, counts, said, strict=True):
        figures[name] = ClassFigures(
            images=count,
            accuracy=_share(total - count - given + 2 * hit, total),
            precision=_share(hit, given),
            recall=_share(hit, count),
            f1=_share(2 * hit, count + given),
        )
    return figures


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def format_table(result: ClassificationResult, most: int = _SHOWN_CLASSES) -> str:
    """Top-1, top-5 and the classes by rising F1, at most ``most`` of them. Plain text."""
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


def write_metrics(path: Path, result: ClassificationResult) -> None:
    """Write the result as JSON (``classification_metrics.json``), atomically."""
    write_atomically(path, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
