"""Commands around training: costs of networks, sweeps, comparisons, searches, tables of logits."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from ..command import (
    EXIT_FAULT,
    Command,
    add_flag,
    add_number,
    add_path,
    add_size,
    add_trust,
    chosen_size_hw,
)


def _add_cost(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--table",
        type=int,
        nargs="+",
        action="extend",
        choices=range(1, 15),
        metavar="N",
        help="Tables of the paper to print, 1 to 14; without it all of them.",
    )
    add_path(parser, "--config", "Count the network of a configuration.")
    sentence = "Count the network of a checkpoint, or of a name of 'mobilevision weights list'."
    parser.add_argument("--ckpt", metavar="MODEL", help=sentence)
    add_size(parser, "Image size in px for --config and --ckpt; by default that of their data.")
    sentence = "Number of classes, where the configuration leaves it to the data."
    add_number(parser, "--num-classes", None, sentence)
    add_flag(parser, "--layers", "Print each layer, not each kind of layer.")
    add_flag(parser, "--json", "Print JSON instead of tables.")
    add_trust(parser)


def _cost(arguments: Namespace) -> int:
    if arguments.config is None and arguments.ckpt is None:
        _print_tables(arguments.table, arguments.json)
    else:
        _print_network(arguments)
    return 0


def _print_tables(numbers: list[int] | None, as_json: bool) -> None:
    from ..costs.networks import table_text
    from ..costs.paper import TABLES, table_rows

    tables = {number: table_rows(number) for number in sorted(set(numbers or TABLES))}
    if as_json:
        rows = [row.as_dict() for rows in tables.values() for row in rows]
        print(json.dumps(rows, indent=2))
        return
    texts = [table_text(number, TABLES[number][0], rows) for number, rows in tables.items()]
    print("\n\n".join(texts))


def _print_network(arguments: Namespace) -> None:
    from ...datasets.errors import DataError
    from ..costs.networks import cost_of, network_text
    from ..public import find_model

    if arguments.table:
        raise DataError("--table prints the paper's tables; leave it out with --config and --ckpt")
    checkpoint = None if arguments.ckpt is None else find_model(arguments.ckpt)
    name, size_hw, cost = cost_of(
        arguments.config, checkpoint, arguments.num_classes, chosen_size_hw(arguments)
    )
    if not arguments.json:
        print(network_text(name, size_hw, cost, arguments.layers))
        return
    content: dict[str, Any] = {
        "network": name,
        "size_hw": list(size_hw),
        "mult_adds": cost.mult_adds,
        "params": cost.params,
        "kinds": {
            kind: {"mult_adds": mult_adds, "params": params}
            for kind, (mult_adds, params) in cost.by_kind().items()
        },
        "layers": [layer._asdict() for layer in cost.layers],
    }
    print(json.dumps(content, indent=2))


def _add_plot_tradeoff(parser: ArgumentParser) -> None:
    sentence = "CSV or JSON with mult_adds, params, an accuracy, and width_mult, resolution, model."
    parser.add_argument("results", type=Path, help=sentence)
    add_path(parser, "--out", "The PNG to write.", default=Path("tradeoff.png"))
    sentence = "Column of the accuracy; without it 'accuracy', else 'top1'."
    parser.add_argument("--accuracy", metavar="COLUMN", help=sentence)


def _plot_tradeoff(arguments: Namespace) -> int:
    from ..costs.tradeoff import write_tradeoff

    count = write_tradeoff(arguments.results, arguments.out, arguments.accuracy)
    print(f"{arguments.out}: {count} results")
    return 0


def _add_compare(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("recipe", type=Path, help="YAML file of variants, as in benchmarks/recipes.")
    sentence = "Folder of the runs and tables; finished runs in it are not repeated."
    add_path(parser, "--out", sentence, "DIR", required=True)
    add("--seeds", type=int, nargs="+", metavar="N", help="Seeds instead of those of the file.")
    add("--only", nargs="+", metavar="NAME", help="Train only these variants.")
    sentence = "Options of `lightning` for all runs, without their dashes."
    add("--set", nargs="+", metavar="OPTION=VALUE", help=sentence)


def _compare(arguments: Namespace) -> int:
    from ..training.comparison import check_seeds, collect, plan, read_comparison, write_tables
    from ..training.sweep import report_failures, run_grid

    comparison = read_comparison(arguments.recipe)
    if arguments.seeds:
        comparison = replace(comparison, seeds=check_seeds(arguments.seeds, "--seeds"))
    if arguments.only:
        comparison = replace(comparison, variants=_chosen(comparison.variants, arguments.only))
    comparison.options.update(_settings(arguments.set or []))
    outcomes = run_grid(plan(comparison, arguments.out), title="compare")
    results = collect(comparison, outcomes)
    print(write_tables(comparison, results, arguments.out))
    print(f"Written to {arguments.out}/comparison.md, .csv and .json")
    failed = report_failures(outcomes)
    empty = [row for row in results if row.fault] if not failed else []
    for row in empty:
        print(f"{row.variant}, seed {row.seed}: {row.fault}", file=sys.stderr)
    return EXIT_FAULT if failed or empty else 0


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


_Number = TypeVar("_Number", int, float)


def _add_config(parser: ArgumentParser, sentence: str) -> None:
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="YAML", help=sentence)


def _add_sweep(parser: ArgumentParser) -> None:
    _add_config(parser, "Configuration of `lightning fit` for a classifier.")
    add = parser.add_argument
    sentence = "Width multipliers, separated by commas."
    add("--width-mults", metavar="LIST", default="0.25,0.5,0.75,1.0", help=sentence)
    sentence = "Sides of the images in px, separated by commas."
    add("--resolutions", metavar="LIST", default="128,160,192,224", help=sentence)
    add_path(parser, "--out", "Folder of the runs and results.", "FOLDER", required=True)
    sentence = "Option of `lightning fit`, as in --fit=--trainer.max_epochs=5; may be repeated."
    add("--fit", action="append", default=[], metavar="OPTION", help=sentence)


def _sweep(arguments: Namespace) -> int:
    from ..training.sweep import FIGURE_FILE, RESULTS_FILE, format_points, sweep

    widths = _numbers("--width-mults", arguments.width_mults, float)
    resolutions = _numbers("--resolutions", arguments.resolutions, int)
    points, failed = sweep(arguments.config, widths, resolutions, arguments.out, arguments.fit)
    if points:
        print(format_points(points))
        print(f"{arguments.out / RESULTS_FILE}, {arguments.out / FIGURE_FILE}")
    return EXIT_FAULT if failed else 0


def _numbers(option: str, text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    from ...datasets.errors import DataError

    try:
        numbers = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise DataError(f"{option} {text}: numbers separated by commas are wanted") from error
    if not numbers or min(numbers) <= 0:
        raise DataError(f"{option} {text}: numbers above 0 are wanted")
    return list(dict.fromkeys(numbers))


def _add_tune(parser: ArgumentParser) -> None:
    _add_config(parser, "Configuration of `lightning fit`; its ModelCheckpoint says what is best.")
    add = parser.add_argument
    sentence = (
        "What varies: OPTION=log:1e-3..1e-1, linear:0..1, int:1..8 or categorical:16,32; may be "
        "repeated."
    )
    add("--param", action="append", default=[], metavar="OPTION=KIND:VALUES", help=sentence)
    add_number(parser, "--trials", 20, "Trials in all, with those of earlier calls.")
    sentence = "Folder of the trials and results; the same command goes on in it."
    add_path(parser, "--out", sentence, "FOLDER", default=Path("runs/tune"))
    sentence = "Option of `lightning fit`, as in --fit=--trainer.max_epochs=5; may be repeated."
    add("--fit", action="append", default=[], metavar="OPTION", help=sentence)
    add_number(parser, "--seed", 0, "Seed of the search; trainings have that of the configuration.")


def _tune(arguments: Namespace) -> int:
    from ...configs import find_config
    from ...datasets.errors import DataError
    from ..training.sweep import report_failures
    from ..training.tuning import Search, read_params, tune, write_results

    for name, least in (("trials", 1), ("seed", 0)):
        if arguments[name] < least:
            raise DataError(f"--{name} {arguments[name]}: give a number of at least {least}")
    params, config = read_params(arguments.param), find_config(arguments.config)
    search = Search(config, params, tuple(arguments.fit), arguments.out, arguments.seed)
    study, outcomes = tune(search, arguments.trials)
    print(write_results(search, study))
    failed = report_failures(outcomes, "They count as trials; a larger --trials tries others.")
    return EXIT_FAULT if failed else 0


def _add_cache_logits(parser: ArgumentParser) -> None:
    sentence = "Configuration that names the data and, in model.distillation, the teacher."
    _add_config(parser, sentence)
    sentence = "Checkpoint of the same job, instead of the configuration's teacher."
    add_path(parser, "--teacher", sentence, "CKPT")
    splits = ["train", "val", "test"]
    parser.add_argument("--split", choices=splits, default=splits[0], help="Which images.")
    add_path(parser, "--out", "Table to write: .npz, .csv or .parquet.", required=True)
    add_trust(parser)


def _cache_logits(arguments: Namespace) -> int:
    from ..batch.cache_logits import cache_logits

    table = cache_logits(arguments.config, arguments.out, arguments.teacher, arguments.split)
    files, numbers = table.vectors.shape
    print(f"{arguments.out}: {files:,} images, {numbers:,} logits each")
    return 0


COMMANDS = {
    "cost": Command(
        (_add_cost, _cost),
        "Count mult-adds and parameters: the paper's tables, or a network of yours.",
        "mobilevision cost --table 8 13",
        "mobilevision cost --json",
        "mobilevision cost --config configs/ssd300.yaml --num-classes 80",
        "mobilevision cost --ckpt best.ckpt --size 300 300 --layers",
    ),
    "plot tradeoff": Command(
        (_add_plot_tradeoff, _plot_tradeoff),
        "Draw accuracy against mult-adds and parameters from a table of results.",
        "mobilevision plot tradeoff results.csv",
        "mobilevision plot tradeoff results.json --out tradeoff.png --accuracy top5",
    ),
    "compare": Command(
        (_add_compare, _compare),
        "Train variants of a recipe with the same budget and several seeds.",
        "mobilevision compare variants.yaml --out runs/variants",
        "mobilevision compare variants.yaml --out runs/one --seeds 1 --only plain ema",
        "mobilevision compare variants.yaml --out runs/two --set trainer.max_epochs=2",
    ),
    "sweep": Command(
        (_add_sweep, _sweep),
        "Train a classifier at several widths and resolutions; ends in a table and a figure.",
        "mobilevision sweep -c configs/classification_quickstart.yaml --width-mults 0.25,0.5 "
        "--resolutions 64,96 --out runs/sweep",
        "mobilevision sweep -c configs/imagenet.yaml --out runs/figure4 "
        "--fit=--trainer.devices=8 --fit=--data.root=/data/imagenet",
    ),
    "tune": Command(
        (_add_tune, _tune),
        "Search for the best options with Optuna, ending hopeless trainings early.",
        "mobilevision tune -c configs/quickstart.yaml --param model.optimizer.lr=log:1e-3..1e-1 "
        "--trials 20",
        "mobilevision tune -c configs/quickstart.yaml --param model.optimizer.lr=log:1e-3..1e-1 "
        "--param data.batch_size=categorical:8,16,32 --out runs/tune --fit=--trainer.max_epochs=4",
    ),
    "cache-logits": Command(
        (_add_cache_logits, _cache_logits),
        "Write a table of a teacher's logits for every image, from which students learn.",
        "mobilevision cache-logits -c configs/classification_quickstart.yaml"
        " --teacher best.ckpt --out logits.npz",
    ),
}
