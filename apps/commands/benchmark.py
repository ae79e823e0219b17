"""``mobilevision benchmark``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..help import add_trust

SUMMARY = "Time a model in every runtime installed: latency, throughput, memory, start."
EXAMPLES = (
    "mobilevision benchmark --model ssd.ckpt --against torchvision:ssdlite320 --threads 2",
    "mobilevision benchmark --model ssd.onnx --against ssd.ckpt --picture street.jpg",
    "mobilevision benchmark --model face.ckpt --against facenet --picture-size 160 160",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
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


def run(arguments: Namespace) -> int:
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
