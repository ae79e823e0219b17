"""``mobilevision gallery list``."""

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "List the people of a gallery."
EXAMPLES = ("mobilevision gallery list --gallery people",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="The gallery.")
    parser.add_argument("--json", action="store_true", help="Print JSON in place of text.")


def run(arguments: Namespace) -> int:
    """Print each name with its number of faces."""
    from ..faces.gallery import Gallery

    people = Gallery(arguments.gallery).people()
    if arguments.json:
        print(json.dumps(people, indent=1, ensure_ascii=False))
        return 0
    for name, count in people.items():
        print(f"{count:6,}  {name}")
    return 0
