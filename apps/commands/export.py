"""Commands that export models and measure how fast they run."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..command import Command, add_size, add_trust


def _add_export(parser: ArgumentParser) -> None:
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
    add_size(parser, "Pixels that the network works at; those of training if not given.")
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
        help="Quantize the network's layers to int8; what each costs is written beside the file.",
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


def _export(arguments: Namespace) -> int:
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


def _add_benchmark(parser: ArgumentParser) -> None:
    _add_sides(parser)
    _add_protocol(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/benchmark"),
        metavar="DIR",
        help="Folder of the table, the chart and benchmark.json.",
    )
    add_trust(parser)


def _add_sides(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        help="Checkpoint, which is exported for each engine, or an exported file as it is.",
    )
    parser.add_argument(
        "--against",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        metavar="WORD",
        help="What it is compared with, separated by spaces or commas: model files, "
        "torchvision:NAME, timm:NAME (random weights, eager torch), facenet.",
    )
    parser.add_argument(
        "--engine",
        type=str,
        default="all",
        metavar="NAME",
        help="Which runtimes: all, eager, or the name of an export format that runs here.",
    )


def _add_protocol(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="Threads of each side; all cores if not given."
    )
    parser.add_argument(
        "--rounds", type=int, default=30, metavar="N", help="Rounds in which each side has a turn."
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="Images at once for the throughput."
    )
    parser.add_argument(
        "--starts", type=int, default=5, metavar="N", help="Processes for memory and cold start."
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="Image that is answered; else a made-up one."
    )
    parser.add_argument(
        "--picture-size",
        type=int,
        nargs=2,
        default=[480, 640],
        metavar=("HEIGHT", "WIDTH"),
        help="Size of that image in px.",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=100,
        metavar="N",
        help="Boxes that a detector with random weights has to suppress.",
    )


def _benchmark(arguments: Namespace) -> int:
    """Measure and print."""
    from ..benchmark.measuring import Settings
    from ..benchmark.report import benchmark, read_image, usable_cores

    height, width = arguments.picture_size
    words = [part for word in arguments.against for part in word.split(",") if part]
    threads = usable_cores() if arguments.threads is None else arguments.threads
    settings = Settings(threads, arguments.rounds, batch=arguments.batch, starts=arguments.starts)
    image = read_image(arguments.picture, (height, width))
    text = benchmark(
        arguments.model,
        words,
        arguments.engine,
        image,
        arguments.candidates,
        settings,
        arguments.out,
    )
    print(text)
    print(f"\nWritten to {arguments.out}/benchmark.json, .txt and .png")
    return 0


COMMANDS = {
    "export": Command(
        "Write a checkpoint as a file that runs without torch, and compare the two.",
        (
            "mobilevision export --ckpt ssd.ckpt --format onnx --out ssd.onnx",
            "mobilevision export --ckpt face.ckpt --format onnx --out face.onnx --size 112 112",
            "mobilevision export --ckpt ssd.ckpt --format openvino --out ssd.xml --int8"
            " --calibrate photos",
        ),
        _add_export,
        _export,
    ),
    "benchmark": Command(
        "Time a model in every runtime installed: latency, throughput, memory, start.",
        (
            "mobilevision benchmark --model ssd.ckpt --against torchvision:ssdlite320 --threads 2",
            "mobilevision benchmark --model ssd.onnx --against ssd.ckpt --picture street.jpg",
            "mobilevision benchmark --model face.ckpt --against facenet --picture-size 160 160",
        ),
        _add_benchmark,
        _benchmark,
    ),
}
