"""What the tables of the MobileNet paper are made of: rows, and the counts in them."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from ...backbone.cost import Cost, count_cost
from ...backbone.mobilenet import ImageClassifier, MobileNetV1

MILLION = 1_000_000
CLASSIFICATION = "classification"


class Row(NamedTuple):
    """One row: our count beside the paper's figure, in ones; None where there is none."""

    table: int
    framework: str
    """The job, or the detection framework of Table 13 with its input size."""
    model: str
    resolution: int | None
    """Side of the square picture in px."""
    width_mult: float | None
    mult_adds: int | None
    params: int | None
    """All parameters, those of batch normalisation too."""
    paper_mult_adds: int | None
    paper_params: int | None
    note: str = ""
    """What explains a difference, or why there is no count."""

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data; ``note`` only where there is one."""
        row = self._asdict()
        if not self.note:
            del row["note"]
        return row


def row(
    table: int,
    model: str,
    resolution: int | None,
    width_mult: float | None,
    cost: Cost | None,
    mega_mult_adds: float | None,
    mega_params: float | None,
    note: str = "",
    framework: str = CLASSIFICATION,
) -> Row:
    """Put a count beside the paper's figures, which are in millions as the paper prints them."""
    return Row(
        table,
        framework,
        model,
        resolution,
        width_mult,
        None if cost is None else cost.mult_adds,
        None if cost is None else cost.params,
        None if mega_mult_adds is None else round(mega_mult_adds * MILLION),
        None if mega_params is None else round(mega_params * MILLION),
        note,
    )


def cost_at(build: Callable[[], nn.Module], size_hw: tuple[int, int], channels: int = 3) -> Cost:
    """Count a module for one picture (1, channels, H, W), without calculating anything."""
    with torch.device("meta"):
        return count_cost(build(), torch.empty(1, channels, *size_hw))


@cache
def mobilenet_cost(
    width_mult: float = 1.0, resolution: int = 224, outputs: int = 1000, **variant: Any
) -> Cost:
    """Cost of a MobileNet with global pooling and one fully connected layer (Table 1)."""

    def build() -> nn.Module:
        return ImageClassifier(MobileNetV1(width_mult=width_mult, **variant), outputs)

    return cost_at(build, (resolution, resolution))


@cache
def peer_cost(name: str, outputs: int = 1000) -> tuple[int, Cost]:
    """Input size in px and cost of a comparison model of ``backbone.external_backbones``."""
    from ...backbone.external_backbones import PEERS

    size, build = PEERS[name]
    return size, cost_at(lambda: build(outputs), (size, size))


def mobilenet_row(
    table: int,
    width_mult: float,
    resolution: int,
    mega_mult_adds: float,
    mega_params: float,
    note: str = "",
    outputs: int = 1000,
    framework: str = CLASSIFICATION,
) -> Row:
    """A row "0.75 MobileNet-192"."""
    cost = mobilenet_cost(width_mult, resolution, outputs)
    name = f"{width_mult} MobileNet-{resolution}"
    figures = (mega_mult_adds, mega_params)
    return row(table, name, resolution, width_mult, cost, *figures, note, framework)


def peer_row(
    table: int,
    name: str,
    mega_mult_adds: float | None,
    mega_params: float | None,
    note: str,
    outputs: int = 1000,
    framework: str = CLASSIFICATION,
) -> Row:
    """A row of a comparison model."""
    size, cost = peer_cost(name, outputs)
    return row(table, name, size, None, cost, mega_mult_adds, mega_params, note, framework)
