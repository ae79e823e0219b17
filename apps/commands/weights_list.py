"""``mobilevision weights list``."""

import json

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "List the public weights that have a name, and which are downloaded."
EXAMPLES = ("mobilevision weights list", "mobilevision weights list --json")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="Print JSON in place of text.")


def run(arguments: Namespace) -> int:
    """Print what is known of each name, and where its file lies if it is there."""
    from ...backbone.weights.hub import PUBLIC_WEIGHTS, cached_path

    paths = {name: cached_path(name) for name in PUBLIC_WEIGHTS}
    there = {name: str(path) if path.is_file() else None for name, path in paths.items()}
    if arguments.json:
        rows = [
            {"name": name, **weights._asdict(), "path": there[name]}
            for name, weights in PUBLIC_WEIGHTS.items()
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for name, weights in PUBLIC_WEIGHTS.items():
        print(name)
        print(f"  {weights.source}, width {weights.width_mult}, {weights.licence}")
        print(f"  {there[name] or 'not downloaded'}")
    return 0
