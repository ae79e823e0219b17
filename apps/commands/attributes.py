"""``mobilevision attributes``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Describe faces in images: the probability of each attribute, yes or no, one table."
EXAMPLES = (
    "mobilevision attributes photos --model attributes.ckpt --out attributes.parquet",
    "mobilevision attributes photos 'more/*.png' --model attributes.ckpt --out attributes.csv"
    " --pictures annotated",
    "mobilevision attributes img_align_celeba --aligned --model attributes.ckpt --out celeba.csv",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="Checkpoint of the network, or an exported one."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="The table: .parquet or .csv."
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="Folder for annotated images.")
    parser.add_argument(
        "--aligned",
        action="store_true",
        help="Each image is one face, framed as CelebA's aligned images are.",
    )
    parser.add_argument(
        "--largest", action="store_true", help="Only the largest face of each image."
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=8, help="Images at once in the network."
    )
    add_device(parser)
    add_trust(parser)


def run(arguments: Namespace, embeddings: bool = False) -> int:
    """Describe; 1 if files could not be read, the others are done.

    Args:
        arguments: The options.
        embeddings: Whether the model embeds faces, too, as that of ``analyze`` does.
    """
    from ..batch.faces import describe_files

    counts = describe_files(
        arguments.inputs,
        arguments.model,
        arguments.out,
        arguments.aligned,
        arguments.largest,
        arguments.pictures,
        arguments.batch_size,
        arguments.device,
        embeddings,
    )
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0
