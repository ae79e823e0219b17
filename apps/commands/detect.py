"""``mobilevision detect``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Find objects in images and videos: annotated images, COCO results."
EXAMPLES = (
    "mobilevision detect street.jpg --model ssd.ckpt --out found",
    "mobilevision detect photos clip.mp4 'more/*.png' --model ssd.ckpt --out found",
    "mobilevision detect data/coco/val2017 --model ssd.ckpt --out found"
    " --annotations data/coco/annotations/instances_val2017.json --no-pictures",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, videos, folders of them, patterns."
    )
    parser.add_argument("--model", type=Path, required=True, help="Checkpoint of a detector.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for what is written.")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="Where the COCO results of the images go; results.json in --out if not given.",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO annotations of the images: give the image ids and are measured against.",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        default=0.5,
        help="Least score that is drawn and counted; results keep lower ones.",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=8, help="Images at once in the network."
    )
    add_device(parser)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="What images are stretched to; as in training if not given.",
    )
    parser.add_argument("--no-pictures", action="store_true", help="Draw nothing.")
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Detect; 1 if files could not be read, the others are done."""
    from ..batch.detection import DetectOptions, detect

    options = DetectOptions(
        arguments.out, arguments.score_threshold, arguments.batch_size, not arguments.no_pictures
    )
    tally = detect(
        arguments.inputs,
        arguments.model,
        options,
        results=arguments.results or arguments.out / "results.json",
        annotations=arguments.annotations,
        device=arguments.device,
        size_hw=tuple(arguments.size) if arguments.size else None,
    )
    sys.stdout.flush()
    return EXIT_FAULT if tally.faults else 0
