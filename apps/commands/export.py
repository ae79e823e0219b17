"""``mobilevision export``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Write a checkpoint as a file that runs without torch, and compare the two."
EXAMPLES = (
    "mobilevision export --ckpt ssd.ckpt --format onnx --out ssd.onnx",
    "mobilevision export --ckpt face.ckpt --format onnx --out face.onnx --size 112 112",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--ckpt", type=Path, required=True, metavar="FILE", help="Checkpoint of any job."
    )
    parser.add_argument(
        "--format", type=str, default="onnx", metavar="NAME", help="Kind of file: onnx."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="File to write, such as ssd.onnx."
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="Pixels that the network works at; those of training if not given.",
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="Pictures of each call; any number if not given."
    )
    parser.add_argument(
        "--fixed-picture",
        action="store_true",
        help="Take pictures of the network's size alone, in place of resizing them inside.",
    )


def run(arguments: Namespace) -> int:
    """Write the file, run it, and say what is in it."""
    from ...datasets.errors import DataError
    from ..export.exporting import export_checkpoint, format_exported
    from ..export.formats import ExportOptions

    if arguments.batch is not None and arguments.batch < 1:
        raise DataError(f"--batch {arguments.batch}: must be at least 1")
    exported = export_checkpoint(
        arguments.ckpt,
        arguments.out,
        arguments.format,
        tuple(arguments.size) if arguments.size else None,
        ExportOptions(arguments.batch, not arguments.fixed_picture),
    )
    print(format_exported(exported))
    return 0
