"""What an anchor-based network says, and what its losses and assigners read."""

from typing import Literal, NamedTuple

from torch import Tensor

ScoreActivation = Literal["softmax", "sigmoid"]
BACKGROUND = 0  # class k of the data is column k + 1 of the logits


class MapLayout(NamedTuple):
    """How the anchors of one map lie: cell by cell, all boxes of a cell together."""

    cells: int
    """Positions of the map, height times width."""
    boxes_per_cell: int
    """Anchors at each of them, all with the same centre."""


class SSDOutput(NamedTuple):
    """What the network says about each of A anchors, in training and in evaluation alike."""

    box_deltas: Tensor
    """(B, A, 4) offsets from the anchors in the box coder's terms."""
    class_logits: Tensor
    """(B, A, num_classes + 1); column 0 is background."""
    anchors: Tensor
    """(A, 4) float32 xyxy in pixels of the network's input."""
    layout: tuple[MapLayout, ...] = ()
    """How the A anchors are spread over the maps; only ``ATSSAssigner`` asks for it."""
