"""What a command of ``mobilevision`` is, how its help looks, and the options that several share."""

from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NamedTuple

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace


class Command(NamedTuple):
    """A command; torch, cv2 and our own heavy modules are imported when it runs, not before."""

    summary: str
    """One sentence for lists of commands."""
    examples: tuple[str, ...]
    """Complete command lines."""
    add_arguments: Callable[[ArgumentParser], None]
    """Declares positional arguments and options, each with one sentence of help."""
    run: Callable[[Namespace], int]
    """Results go to stdout, progress to stderr; returns the exit status."""


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Sentences for people: the line breaks of the examples kept, defaults, and no Python types."""

    def _get_help_string(self, action: Action) -> str:
        sentence = action.help or ""
        default = action.default
        if default is None or default is False or default == SUPPRESS:
            return sentence
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{sentence} Default: {shown.replace('%', '%%')}."


def add_inputs(
    parser: ArgumentParser, sentence: str = "Images, folders of them, patterns."
) -> None:
    """Declare the files that a command runs over."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=sentence)


def add_batch_size(
    parser: ArgumentParser, default: int, sentence: str = "Images at once in the network."
) -> None:
    """Declare ``--batch-size``."""
    parser.add_argument("--batch-size", type=int, metavar="N", default=default, help=sentence)


def add_size(parser: ArgumentParser, sentence: str) -> None:
    """Declare ``--size`` as a height and a width."""
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=sentence)


def add_trust(parser: ArgumentParser) -> None:
    """Declare ``--trust``, which every command that opens a checkpoint has."""
    parser.add_argument(
        "--trust",
        nargs="+",
        action="extend",
        default=[],
        metavar="PACKAGE",
        help="Packages of yours whose classes a checkpoint may name; never for a file of a "
        "stranger, as it can then run whatever is in them.",
    )


def add_device(parser: ArgumentParser) -> None:
    """Declare ``--device``, which every command that runs a model has."""
    parser.add_argument(
        "--device",
        default="auto",
        help="Where it runs: auto (an accelerator where there is one), cpu, cuda:1.",
    )
