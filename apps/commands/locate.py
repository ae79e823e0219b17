"""``mobilevision locate``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Tell where images were taken: places, probabilities, uncertainty."
EXAMPLES = (
    "mobilevision locate street.jpg --model world.ckpt",
    "mobilevision locate photos --model world.ckpt --geojson places.geojson --compare-exif",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument("--model", type=Path, required=True, help="Checkpoint of a geolocator.")
    parser.add_argument(
        "--geojson",
        type=Path,
        metavar="FILE",
        help="Where answers and outlines of the best cells go.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON lines, one an image; a run with the same options goes on from it.",
    )
    parser.add_argument(
        "--compare-exif",
        action="store_true",
        help="Compare with the GPS positions that images carry; they are not read otherwise.",
    )
    parser.add_argument("--top", type=int, metavar="N", default=5, help="Places of each image.")
    parser.add_argument(
        "--answer",
        choices=["cell", "mode"],
        default="cell",
        help="Mean position of the best cell's photos, or where probability is densest.",
    )
    parser.add_argument("--five-crop", action="store_true", help="Average over corners and center.")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=16, help="Images at once in the network."
    )
    add_device(parser)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="Size of the network's input; as in training if not given.",
    )
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Locate; 1 if files could not be read, the others are done."""
    from ..batch.geolocation import LocateOptions, locate
    from ..inference.geolocation import Geolocator

    geolocator = Geolocator.load(
        arguments.model,
        arguments.device,
        tuple(arguments.size) if arguments.size else None,
        arguments.answer,
        arguments.five_crop,
    )
    options = LocateOptions(
        arguments.top,
        arguments.batch_size,
        arguments.compare_exif,
        arguments.geojson,
        arguments.out,
    )
    faults = locate(arguments.inputs, geolocator, arguments.model, options)
    sys.stdout.flush()
    return EXIT_FAULT if faults else 0
