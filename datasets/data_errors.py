"""What is wrong with a data set: kinds of faults that stop the reading or are counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np

from .errors import DataError

OnError = Literal["raise", "skip"]
"""``raise``: the first fault ends the reading. ``skip``: what is faulty is left out and counted."""

EXAMPLES = 100
"""How many messages of each kind are kept; the count goes on."""


class FaultKind(Enum):
    """A kind of fault: its name in tables (the value's first part) and what to do about it."""

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

    @property
    def title(self) -> str:
        """The plural that stands in tables."""
        return self.value[0]

    @property
    def fix(self) -> str:
        """What a person can do about it, one sentence."""
        return self.value[1]


@dataclass
class Faults:
    """Collects the faults of a data set, or raises the first.

    Attributes:
        on_error: see `OnError`.
        counts: how many faults of each kind were met.
        messages: the first `EXAMPLES` messages of each kind.
    """

    on_error: OnError = "raise"
    counts: dict[FaultKind, int] = field(default_factory=dict)
    messages: dict[FaultKind, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise DataError(f'on_error is {self.on_error!r}; choose "raise" or "skip".')

    def add(self, kind: FaultKind, message: str, count: int = 1) -> None:
        """Record a fault, or raise it.

        Args:
            kind: which fault.
            message: the file, the annotation id where there is one, and what is wrong. Without a
                full stop at its end, the kind's fix is added.
            count: how many faults of this kind the message stands for.

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
        self.counts[kind] = self.counts.get(kind, 0) + count
        messages = self.messages.setdefault(kind, [])
        if len(messages) < EXAMPLES:
            messages.append(message)

    def add_where(self, kind: FaultKind, mask: np.ndarray, message: Callable[[int], str]) -> None:
        """Record a fault for each True of a mask (N,) bool; ``message`` gets its position.

        Raises:
            DataError: under ``on_error="raise"`` where any is True.
        """
        positions = np.flatnonzero(mask)
        if not positions.size:
            return
        if self.on_error == "raise":
            self.add(kind, message(int(positions[0])), count=positions.size)
        for position in positions[:EXAMPLES]:
            self.add(kind, message(int(position)))
        self.counts[kind] += max(0, positions.size - EXAMPLES)

    def extend(self, other: "Faults") -> None:
        """Take over what another collector has counted."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self.messages.setdefault(kind, [])
            kept.extend(other.messages[kind][: EXAMPLES - len(kept)])

    def copy(self) -> "Faults":
        """An independent collector with the same counts."""
        twin = Faults(self.on_error)
        twin.extend(self)
        return twin

    @property
    def total(self) -> int:
        """How many faults were counted."""
        return sum(self.counts.values())

    def summary(self) -> str:
        """One line: the counts by kind; empty where there are none."""
        return ", ".join(f"{count:,} {kind.title}" for kind, count in self.counts.items())

    def as_dict(self) -> Mapping[str, dict[str, object]]:
        """For JSON: title -> ``count`` and ``examples``."""
        return {
            kind.title: {"count": count, "examples": list(self.messages[kind])}
            for kind, count in self.counts.items()
        }
