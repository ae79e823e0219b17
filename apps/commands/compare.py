"""``mobilevision compare``."""

from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Train variants of a recipe with the same budget and several seeds."
EXAMPLES = (
    "mobilevision compare variants.yaml --out runs/variants",
    "mobilevision compare variants.yaml --out runs/one --seeds 1 --only plain ema",
    "mobilevision compare variants.yaml --out runs/two --set trainer.max_epochs=2",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "recipe", type=Path, help="YAML file of variants, as in benchmarks/recipes."
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        required=True,
        help="Folder of the runs and tables; what is finished there is not repeated.",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="Seeds in place of the file's."
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="Variants to train, in place of all."
    )
    parser.add_argument(
        "--set",
        nargs="+",
        metavar="OPTION=VALUE",
        help="Options of `lightning` for all runs, without their dashes.",
    )


def run(arguments: Namespace) -> int:
    """Train and tabulate; 1 where a run failed or left no numbers."""
    import sys

    from ..training.comparison import check_seeds, collect, plan, read_comparison, write_tables
    from ..training.sweep import report_failures, run_grid

    comparison = read_comparison(arguments.recipe)
    if arguments.seeds:
        comparison = replace(comparison, seeds=check_seeds(arguments.seeds, "--seeds"))
    if arguments.only:
        comparison = replace(comparison, variants=_chosen(comparison.variants, arguments.only))
    settings = _settings(arguments.set or [])
    comparison = replace(comparison, options=comparison.options | settings)
    outcomes = run_grid(plan(comparison, arguments.out), title="compare")
    results = collect(comparison, outcomes)
    print(write_tables(comparison, results, arguments.out))
    print(f"Written to {arguments.out}/comparison.md, .csv and .json")
    failed = report_failures(outcomes)
    empty = [row for row in results if row.fault] if not failed else []
    for row in empty:
        print(f"{row.variant}, seed {row.seed}: {row.fault}", file=sys.stderr)
    return 1 if failed or empty else 0


def _chosen(variants: dict, names: list[str]) -> dict:
    from ...datasets.errors import DataError

    unknown = [name for name in names if name not in variants]
    if unknown:
        raise DataError(f"--only: no variants {unknown}; the file has {', '.join(variants)}")
    return {name: options for name, options in variants.items() if name in names}


def _settings(words: list[str]) -> dict[str, str]:
    from ...datasets.errors import DataError

    wrong = [word for word in words if "=" not in word or word.startswith("-")]
    if wrong:
        raise DataError(f"--set: {wrong}: write OPTION=VALUE, such as trainer.max_epochs=2")
    return dict(word.split("=", 1) for word in words)
