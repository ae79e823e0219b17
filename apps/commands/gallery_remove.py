"""``mobilevision gallery remove``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Remove a person from a gallery, from its files too."
EXAMPLES = ("mobilevision gallery remove 'Ada Lovelace' --gallery people",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="Of the person.")
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="The gallery.")


def run(arguments: Namespace) -> int:
    """Remove; older versions of the gallery's files go, too."""
    from ..faces.gallery import Gallery

    count = Gallery(arguments.gallery).remove(arguments.name)
    print(f"{arguments.name}: {count:,} faces removed")
    return 0
