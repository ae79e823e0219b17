"""Kinds of faults in a dataset, which stop the reading or are counted."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np

from .errors import DataError

# A child of Lightning's logger, whose messages are shown by default.
data_log = logging.getLogger("lightning.pytorch.mobilevision.data")

OnError = Literal["raise", "skip"]
"""``raise`` stops at the first fault; ``skip`` leaves faulty entries out and counts them."""

Unlabeled = Literal["error", "skip", "background"]
"""What images without a label file are: a fault, left out and counted, or images of no object."""

EXAMPLES = 100
"""Number of messages of each kind that are kept; all are counted."""


class FaultKind(Enum):
    """A kind of fault: its plural in tables and what to do about it."""

    ANNOTATION_FILE = "unreadable annotation files", "Correct or replace the annotation file."
    MALFORMED = "malformed entries", "Write the entry as its format demands."
    DUPLICATE_IMAGE = "images declared twice", "Declare every image once, with an id of its own."
    DUPLICATE_ANNOTATION = "annotation ids used twice", "Give every annotation an id of its own."
    UNKNOWN_IMAGE = "references to unknown images", "Declare the image, or remove the reference."
    UNKNOWN_CATEGORY = "unknown categories", "Declare the category, or correct the annotation."
    NOT_FINITE = "boxes with NaN or infinity", "Correct or remove the box."
    NO_SIZE = (
        "boxes without size",
        "Width and height must be above zero: correct or remove the box.",
    )
    OUTSIDE = (
        "boxes beyond the image",
        "Correct the box, or the width and height that are declared for the image.",
    )
    MISSING = "missing images", "Put the file there, or correct the image folder."
    UNREADABLE = "unreadable images", "Replace the file, or remove it from the annotations."
    SIZE = "images of another size", "Declare the image's real width and height."
    UNLABELED = (
        "images without a label file",
        "Label or remove them; unlabeled=skip leaves them out, unlabeled=background trains on them "
        "as images of no object (an empty label file says the same of one image).",
    )

    @property
    def title(self) -> str:
        """The plural shown in tables."""
        return self.value[0]

    @property
    def fix(self) -> str:
        """One sentence on how to correct it."""
        return self.value[1]


@dataclass
class Faults:
    """The faults of a dataset: raises the first, or counts them.

    Attributes:
        on_error: see `OnError`.
        counts: number of faults of each kind.
        messages: the first `EXAMPLES` messages of each kind.
    """

    on_error: OnError = "raise"
    counts: dict[FaultKind, int] = field(default_factory=dict)
    messages: dict[FaultKind, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise DataError(f'on_error is {self.on_error!r}; choose "raise" or "skip".')

    def add(self, kind: FaultKind, message: str, count: int = 1) -> None:
        """Record ``count`` faults, or raise the first.

        ``message`` has the file, the annotation id where there is one, and what is wrong.
        The kind's fix is added unless it ends in a full stop.

        Raises:
            DataError: under ``on_error="raise"``.
        """
        if self.on_error == "raise":
            more = f" (and {count - 1:,} more such faults)" if count > 1 else ""
            problem = message if message.endswith(".") else f"{message}{more}. {kind.fix}"
            raise DataError(
                f"{problem} `mobilevision data check ROOT` lists every fault; on_error=skip leaves "
                "faulty entries out and counts them."
            )
        self._record(kind, count, [message])

    def _record(self, kind: FaultKind, count: int, messages: Sequence[str]) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self.messages.setdefault(kind, [])
        kept.extend(messages[: EXAMPLES - len(kept)])

    def add_where(self, kind: FaultKind, mask: np.ndarray, message: Callable[[int], str]) -> None:
        """Record or raise a fault for each True of a mask (N,); ``message`` gets its position."""
        positions = np.flatnonzero(mask)
        if not positions.size:
            return
        if self.on_error == "raise":
            self.add(kind, message(int(positions[0])), count=positions.size)
        examples = [message(int(position)) for position in positions[:EXAMPLES]]
        self._record(kind, positions.size, examples)

    def add_unlabeled(self, images: Sequence[str], total: int, unlabeled: Unlabeled) -> bool:
        """Count images without a label file, of ``total``; returns whether they are background.

        Raises:
            DataError: ``unlabeled`` and ``on_error`` make it a fault, or there is no such choice.
        """
        if unlabeled not in ("error", "skip", "background"):
            raise DataError(f'unlabeled is {unlabeled!r}; choose "error", "skip" or "background".')
        if unlabeled == "background" or not images:
            return True
        messages = [f"{image}: has no label file" for image in images[:EXAMPLES]]
        if unlabeled == "error" and self.on_error == "raise":
            count = f"{len(images):,} of {total:,} images have none"
            self.add(FaultKind.UNLABELED, f"{messages[0]} ({count})")
        self._record(FaultKind.UNLABELED, len(images), messages)
        return False

    def extend(self, other: "Faults") -> None:
        """Add the counts and messages of another collector."""
        for kind, count in other.counts.items():
            self._record(kind, count, other.messages[kind])

    def copy(self) -> "Faults":
        """Return an independent collector with the same counts."""
        twin = Faults(self.on_error)
        twin.extend(self)
        return twin

    @property
    def total(self) -> int:
        """Number of counted faults."""
        return sum(self.counts.values())

    def summary(self) -> str:
        """Return the counts by kind in one line, empty without faults."""
        return ", ".join(f"{count:,} {kind.title}" for kind, count in self.counts.items())

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Return, for JSON: title -> ``count`` and ``examples``."""
        return {
            kind.title: {"count": count, "examples": self.messages[kind]}
            for kind, count in self.counts.items()
        }
