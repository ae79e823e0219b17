"""``mobilevision classify``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Tell what images show: the most probable classes of each, printed or as a table."
EXAMPLES = (
    "mobilevision classify dog.jpg --model mobilenet.ckpt",
    "mobilevision classify photos 'more/*.png' --model mobilenet.onnx --out classes.csv --top 1",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="Checkpoint of a classifier, or an exported one."
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="The table, .csv or .parquet; FILE.progress keeps what is done. Else it is printed.",
    )
    parser.add_argument("--top", type=int, metavar="N", default=5, help="Classes of each image.")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=16, help="Images at once in the network."
    )
    add_device(parser)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="Of the network's input; as in training if not given.",
    )
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Classify; 1 if files could not be read, the others are done."""
    from ..batch.classification import classify

    counts = classify(
        arguments.inputs,
        arguments.model,
        arguments.out,
        arguments.top,
        arguments.batch_size,
        arguments.device,
        tuple(arguments.size) if arguments.size else None,
    )
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0
