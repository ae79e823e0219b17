"""``mobilevision export``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..help import add_trust

SUMMARY = "Write a checkpoint as a file that runs without torch, and compare the two."
EXAMPLES = (
    "mobilevision export --ckpt ssd.ckpt --format onnx --out ssd.onnx",
    "mobilevision export --ckpt face.ckpt --format onnx --out face.onnx --size 112 112",
    "mobilevision export --ckpt ssd.ckpt --format openvino --out ssd.xml --int8 --calibrate photos",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--ckpt", type=Path, required=True, metavar="FILE", help="Checkpoint of any job."
    )
    parser.add_argument(
        "--format",
        type=str,
        default="onnx",
        metavar="NAME",
        help="Kind of file: onnx, openvino, exported-program, executorch or coreml.",
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
        "--batch",
        type=int,
        metavar="N",
        help="Images of each call; any number if not given, with executorch one.",
    )
    parser.add_argument(
        "--fixed-picture",
        action="store_true",
        help="Take images of the network's size alone, in place of resizing them inside; "
        "executorch always does.",
    )
    _add_int8(parser)
    add_trust(parser)


def _add_int8(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--int8",
        action="store_true",
        help="Put the network's layers into 8 bits; what each costs is written beside the file.",
    )
    parser.add_argument(
        "--calibrate",
        type=str,
        nargs="+",
        default=[],
        metavar="PATH",
        help="Images like those to come: files, folders, patterns. For --int8.",
    )
    parser.add_argument(
        "--calibrate-count", type=int, default=100, metavar="N", help="Use at most this many."
    )
    parser.add_argument(
        "--calibrate-method",
        type=str,
        default="minmax",
        metavar="NAME",
        help="How ranges are taken: minmax, entropy or percentile.",
    )
    parser.add_argument(
        "--int8-limit",
        type=float,
        default=20.0,
        metavar="DB",
        help="Signal to noise to keep; the costliest layers stay in float32 until it is.",
    )


def run(arguments: Namespace) -> int:
    """Write the file, run it, and say what is in it."""
    from ...datasets.errors import DataError
    from ..export.exporting import export_checkpoint, format_exported
    from ..export.formats import Calibration, ExportOptions, find_images

    if arguments.batch is not None and arguments.batch < 1:
        raise DataError(f"--batch {arguments.batch}: must be at least 1")
    if arguments.calibrate and not arguments.int8:
        raise DataError("--calibrate: is for --int8, which is not given")
    calibration = None
    if arguments.int8:
        images = find_images(arguments.calibrate, arguments.calibrate_count)
        calibration = Calibration(images, arguments.calibrate_method, arguments.int8_limit)
    exported = export_checkpoint(
        arguments.ckpt,
        arguments.out,
        arguments.format,
        tuple(arguments.size) if arguments.size else None,
        ExportOptions(arguments.batch, not arguments.fixed_picture, calibration),
    )
    print(format_exported(exported))
    if calibration:
        from ..export.quantization import format_report, read_report

        print(format_report(read_report(arguments.out)))
    return 0
