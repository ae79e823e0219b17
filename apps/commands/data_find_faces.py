"""``mobilevision data find-faces``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device

SUMMARY = "Find the landmarks of faces once, so that data can be aligned by them."
EXAMPLES = ("mobilevision data find-faces data/faces --out landmarks.parquet",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="The table, .parquet."
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=16, help="Images looked at together."
    )
    add_device(parser)


def run(arguments: Namespace) -> int:
    """Find; 1 if files could not be read, the others are in the table."""
    from ..batch.faces import find_faces

    counts = find_faces(arguments.inputs, arguments.out, arguments.batch_size, arguments.device)
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0
