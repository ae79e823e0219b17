"""``mobilevision data download cifar10``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Download CIFAR-10 in its binary version (170 MB), verified."
EXAMPLES = ("mobilevision data download cifar10",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        default=Path("data/cifar10"),
        help="Folder to download into and unpack in.",
    )


def run(arguments: Namespace) -> int:
    """Fetch it, or say that it is there."""
    from ...datasets.classification.cifar import download_cifar10

    fetched = download_cifar10(arguments.root)
    print(f"{arguments.root}: CIFAR-10 is {'complete' if fetched else 'there already'}.")
    return 0
