"""``mobilevision plot tradeoff``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Draw accuracy against mult-adds and parameters from a table of results."
EXAMPLES = (
    "mobilevision plot tradeoff results.csv",
    "mobilevision plot tradeoff results.json --out tradeoff.png --accuracy top5",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "results",
        type=Path,
        help="CSV or JSON with mult_adds, params, an accuracy, and width_mult, resolution, model.",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("tradeoff.png"), help="The PNG to write."
    )
    parser.add_argument(
        "--accuracy",
        metavar="COLUMN",
        help="Column of the accuracy; without it 'accuracy', else 'top1'.",
    )


def run(arguments: Namespace) -> int:
    """Draw, and say where."""
    from ..costs.tradeoff import write_tradeoff

    count = write_tradeoff(arguments.results, arguments.out, arguments.accuracy)
    print(f"{arguments.out}: {count} results")
    return 0
