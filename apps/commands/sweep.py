"""``mobilevision sweep``."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT

_Number = TypeVar("_Number", int, float)

SUMMARY = "Train a classifier at several widths and resolutions; ends in a table and a figure."
EXAMPLES = (
    "mobilevision sweep -c configs/classification_quickstart.yaml --width-mults 0.25,0.5 "
    "--resolutions 64,96 --out runs/sweep",
    "mobilevision sweep -c configs/imagenet.yaml --out runs/figure4 "
    "--fit=--trainer.devices=8 --fit=--data.root=/data/imagenet",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        required=True,
        metavar="YAML",
        help="Configuration of `lightning fit` for a classifier.",
    )
    parser.add_argument(
        "--width-mults",
        type=str,
        metavar="LIST",
        default="0.25,0.5,0.75,1.0",
        help="Width multipliers, separated by commas.",
    )
    parser.add_argument(
        "--resolutions",
        type=str,
        metavar="LIST",
        default="128,160,192,224",
        help="Sides of the images in px, separated by commas.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="Where runs and results go."
    )
    parser.add_argument(
        "--fit",
        action="append",
        default=[],
        metavar="OPTION",
        help="Option of `lightning fit`, as in --fit=--trainer.max_epochs=5; may be repeated.",
    )


def run(arguments: Namespace) -> int:
    """Train, and print the table; 1 where a run failed."""
    from ..training.sweep import FIGURE_FILE, RESULTS_FILE, format_points, sweep

    points, failed = sweep(
        arguments.config,
        _numbers("--width-mults", arguments.width_mults, float),
        _numbers("--resolutions", arguments.resolutions, int),
        arguments.out,
        arguments.fit,
    )
    if points:
        print(format_points(points))
        print(f"{arguments.out / RESULTS_FILE}, {arguments.out / FIGURE_FILE}")
    return EXIT_FAULT if failed else 0


def _numbers(option: str, text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    from ...datasets.errors import DataError

    try:
        numbers = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise DataError(f"{option} {text}: numbers separated by commas are wanted") from error
    if not numbers or min(numbers) <= 0:
        raise DataError(f"{option} {text}: numbers above 0 are wanted")
    return list(dict.fromkeys(numbers))
