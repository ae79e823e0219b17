"""``mobilevision cost``."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..help import add_trust

SUMMARY = "Count mult-adds and parameters: the paper's tables, or a network of yours."
EXAMPLES = (
    "mobilevision cost --table 8 13",
    "mobilevision cost --json",
    "mobilevision cost --config configs/ssd300.yaml --num-classes 80",
    "mobilevision cost --ckpt best.ckpt --size 300 300 --layers",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--table",
        type=int,
        nargs="+",
        action="extend",
        choices=range(1, 15),
        metavar="N",
        help="Tables of the paper to print, 1 to 14; without it all of them.",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="Count the network of a configuration."
    )
    parser.add_argument(
        "--ckpt", type=Path, metavar="FILE", help="Count the network of a checkpoint."
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="Image in px for --config and --ckpt; without it that of the configuration's data.",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="Classes, where the configuration leaves them to the data.",
    )
    parser.add_argument(
        "--layers", action="store_true", help="Print each layer, not each kind of layer."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON in place of tables.")
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Count and print."""
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

    if arguments.table:
        raise DataError("--table prints the paper's tables; leave it out with --config and --ckpt")
    size = tuple(arguments.size) if arguments.size else None
    name, size_hw, cost = cost_of(arguments.config, arguments.ckpt, arguments.num_classes, size)
    if not arguments.json:
        print(network_text(name, size_hw, cost, arguments.layers))
        return
    answer: dict[str, Any] = {
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
    print(json.dumps(answer, indent=2))
