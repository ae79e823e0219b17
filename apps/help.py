"""How the help of a command looks, and the options that several of them share."""

from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter

from jsonargparse import ArgumentParser, DefaultHelpFormatter


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Sentences for people: the line breaks of the examples kept, defaults, and no Python types."""

    def _get_help_string(self, action: Action) -> str:
        sentence = action.help or ""
        default = action.default
        if default is None or default is False or default == SUPPRESS:
            return sentence
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{sentence} Default: {shown.replace('%', '%%')}."


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
