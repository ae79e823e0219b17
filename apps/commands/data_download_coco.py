"""``mobilevision data download coco``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ...datasets.errors import DataError
from ..errors import EXIT_FAULT

SUMMARY = "Download COCO 2017 or 2014, verified, and resume where it stopped."
EXAMPLES = (
    "mobilevision data download coco",
    "mobilevision data download coco --splits val --root /disk/coco --yes",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        default=Path("data/coco"),
        help="Folder to download into and unpack in.",
    )
    parser.add_argument(
        "--year", type=int, choices=[2014, 2017], default=2017, help="Which edition."
    )
    parser.add_argument(
        "--splits",
        type=str,
        metavar="NAMES",
        default="train,val",
        help="What to fetch, separated by commas.",
    )
    parser.add_argument("--yes", action="store_true", help="Start without asking.")
    parser.add_argument(
        "--base-url",
        type=str,
        metavar="URL",
        default=None,
        help="Mirror to use in place of the official server.",
    )


def run(arguments: Namespace) -> int:
    """Show what is missing and how large it is, ask, and fetch it."""
    from ...datasets.detection.coco_download import (
        BASE_URL,
        download_coco,
        missing_archives,
        space_needed,
    )
    from ...datasets.download import format_size

    splits = [split.strip() for split in arguments.splits.split(",") if split.strip()]
    archives = missing_archives(arguments.root, arguments.year, splits)
    if not archives:
        print(f"{arguments.root}: COCO {arguments.year} ({', '.join(splits)}) is there already.")
        return 0
    for archive in archives:
        print(f"{archive.name:<30}{format_size(archive.size):>12}")
    print(f"{'to download':<30}{format_size(sum(a.size for a in archives)):>12}")
    print(f"{'disk space while unpacking':<30}{format_size(space_needed(archives)):>12}")
    if not (arguments.yes or _confirmed(arguments.root)):
        return EXIT_FAULT
    base_url = arguments.base_url or BASE_URL
    download_coco(arguments.root, year=arguments.year, splits=splits, base_url=base_url)
    print(f"{arguments.root}: complete. Next: mobilevision data check {arguments.root}")
    return 0


def _confirmed(root: Path) -> bool:
    if not sys.stdin.isatty():
        raise DataError("nothing was downloaded: add --yes where nobody can be asked")
    print(f"Download into {root}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    print("nothing was downloaded", file=sys.stderr)
    return False
