"""Commands that export models and measure how fast they run."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..command import (
    Command,
    add_flag,
    add_names,
    add_number,
    add_path,
    add_size,
    add_trust,
    chosen_size_hw,
)


def _add_export(parser: ArgumentParser) -> None:
    sentence = "Checkpoint of any job, or a name of 'mobilevision weights list'."
    parser.add_argument("--ckpt", metavar="MODEL", required=True, help=sentence)
    add = parser.add_argument
    sentence = "File format: onnx, openvino, exported-program, executorch or coreml."
    add("--format", default="onnx", metavar="NAME", help=sentence)
    add_path(parser, "--out", "File to write, such as ssd.onnx.", required=True)
    add_size(parser, "Input size of the network; that of training if not given.")
    sentence = "Images in a batch; any number if not given, with executorch one."
    add_number(parser, "--batch", None, sentence)
    sentence = "Take only images of the network's size, instead of resizing them in the file"
    add_flag(parser, "--fixed-picture", f"{sentence}; always so with executorch.")
    sentence = "Quantize the network's layers to int8; a report on each layer is written"
    add_flag(parser, "--int8", f"{sentence} beside the file.")
    sentence = "Representative images for --int8: files, folders, patterns."
    add("--calibrate", nargs="+", default=[], metavar="PATH", help=sentence)
    add_number(parser, "--calibrate-count", 100, "Maximum number of calibration images.")
    sentence = "How the ranges are determined: minmax, entropy or percentile."
    add("--calibrate-method", default="minmax", metavar="NAME", help=sentence)
    sentence = "Signal-to-noise ratio to keep, by leaving the most sensitive layers in float32."
    add("--int8-limit", type=float, default=20.0, metavar="DB", help=sentence)
    add_trust(parser)


def _export(arguments: Namespace) -> int:
    from ...datasets.errors import DataError
    from ..export.exporting import export_checkpoint, format_exported
    from ..export.formats import Calibration, ExportOptions, find_images
    from ..public import find_model

    if arguments.batch is not None and arguments.batch < 1:
        raise DataError(f"--batch {arguments.batch}: must be at least 1")
    if arguments.calibrate and not arguments.int8:
        raise DataError("--calibrate: only used with --int8, which is not given")
    calibration = None
    if arguments.int8:
        images = find_images(arguments.calibrate, arguments.calibrate_count)
        calibration = Calibration(images, arguments.calibrate_method, arguments.int8_limit)
    options = ExportOptions(arguments.batch, not arguments.fixed_picture, calibration)
    exported = export_checkpoint(
        find_model(arguments.ckpt, hint="Name a checkpoint."),
        arguments.out,
        arguments.format,
        chosen_size_hw(arguments),
        options,
    )
    print(format_exported(exported))
    if calibration:
        from ..export.quantization import format_report, read_report

        print(format_report(read_report(arguments.out)))
    return 0


def _add_benchmark(parser: ArgumentParser) -> None:
    sentence = (
        "Checkpoint or name of 'mobilevision weights list', which is exported for each engine, or "
        "an exported file as it is."
    )
    parser.add_argument("--model", metavar="MODEL", required=True, help=sentence)
    sentence = (
        "Models to compare with, separated by spaces or commas: as for --model, torchvision:NAME, "
        "timm:NAME (random weights, eager torch), facenet."
    )
    add_names(parser, "--against", "WORD", sentence)
    sentence = "Runtimes: all, eager, or the name of an export format that runs here."
    parser.add_argument("--engine", default="all", metavar="NAME", help=sentence)
    add_number(parser, "--threads", None, "Threads of each side; all cores if not given.")
    add_number(parser, "--rounds", 30, "Rounds in which each side has a turn.")
    add_number(parser, "--batch", 16, "Images in a batch for the throughput.")
    add_number(parser, "--starts", 5, "Processes for memory and cold start.")
    add_path(parser, "--picture", "Image to run on; by default a generated one.")
    add_size(parser, "Size of that image in px.", "--picture-size", [480, 640])
    sentence = "Boxes that a detector with random weights has to suppress."
    add_number(parser, "--candidates", 100, sentence)
    sentence = "Folder of the table, the chart and benchmark.json."
    add_path(parser, "--out", sentence, "DIR", default=Path("runs/benchmark"))
    add_trust(parser)


def _benchmark(arguments: Namespace) -> int:
    from ..benchmark.measuring import Settings
    from ..benchmark.report import benchmark, read_image, usable_cores

    words = [part for word in arguments.against for part in word.split(",") if part]
    threads = usable_cores() if arguments.threads is None else arguments.threads
    settings = Settings(threads, arguments.rounds, batch=arguments.batch, starts=arguments.starts)
    image = read_image(arguments.picture, tuple(arguments.picture_size))
    table = benchmark(
        arguments.model, words, arguments.engine, image, arguments.candidates, settings,
        arguments.out,
    )  # fmt: skip
    print(table)
    print(f"\nWritten to {arguments.out}/benchmark.json, .txt and .png")
    return 0


COMMANDS = {
    "export": Command(
        (_add_export, _export),
        "Write a checkpoint as a file that runs without torch, and compare the two.",
        "mobilevision export --ckpt ssd.ckpt --format onnx --out ssd.onnx",
        "mobilevision export --ckpt face.ckpt --format onnx --out face.onnx --size 112 112",
        "mobilevision export --ckpt ssd.ckpt --format openvino --out ssd.xml --int8"
        " --calibrate photos",
    ),
    "benchmark": Command(
        (_add_benchmark, _benchmark),
        "Time a model in every runtime installed: latency, throughput, memory, start.",
        "mobilevision benchmark --model ssd.ckpt --against torchvision:ssdlite320 --threads 2",
        "mobilevision benchmark --model ssd.onnx --against ssd.ckpt --picture street.jpg",
        "mobilevision benchmark --model face.ckpt --against facenet --picture-size 160 160",
    ),
}
