"""``mobilevision cache-logits``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..help import add_trust

SUMMARY = "Write what a teacher says of every image, for students that learn from the table."
EXAMPLES = (
    "mobilevision cache-logits -c configs/classification_quickstart.yaml --teacher best.ckpt "
    "--out logits.npz",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        required=True,
        metavar="YAML",
        help="Configuration that names the data and, in model.distillation, the teacher.",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="CKPT",
        help="Checkpoint of the same job, in place of the configuration's teacher.",
    )
    parser.add_argument(
        "--split", choices=["train", "val", "test"], default="train", help="Which images."
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="Table to write: .npz, .csv or .parquet.",
    )
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Write the table, and say where."""
    from ..training.cache_logits import cache_logits

    table = cache_logits(arguments.config, arguments.out, arguments.teacher, arguments.split)
    files, numbers = table.vectors.shape
    print(f"{arguments.out}: {files:,} images, {numbers:,} logits each")
    return 0
