"""``mobilevision data synthetic``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Draw a data set of simple scenes in COCO's format."
EXAMPLES = (
    "mobilevision data synthetic data/synthetic",
    "mobilevision data synthetic /tmp/scenes --train 100 --val 20 --size 300 300",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("root", type=Path, help="Folder to make.")
    parser.add_argument(
        "--train", type=int, metavar="N", default=2000, help="Number of training images."
    )
    parser.add_argument(
        "--val", type=int, metavar="N", default=200, help="Number of validation images."
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        default=[240, 240],
        help="Size of every image in pixels.",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", default=0, help="Another seed draws other scenes."
    )


def run(arguments: Namespace) -> int:
    """Write the scenes, unless the same ones are there."""
    from ...datasets.synthetic.detection import write_scenes

    height, width = arguments.size
    written = write_scenes(
        arguments.root,
        train=arguments.train,
        val=arguments.val,
        size_hw=(height, width),
        seed=arguments.seed,
    )
    state = "written" if written else "there already"
    print(f"{arguments.root}: {arguments.train} + {arguments.val} images, {state}")
    return 0
