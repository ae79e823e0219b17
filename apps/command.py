"""The commands of ``mobilevision``: their type, the format of their help, and shared options."""

from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
    """Help with defaults and with the line breaks of the examples, but without Python types."""

    def _get_help_string(self, action: Action) -> str:
        sentence = action.help or ""
        default = action.default
        if default is None or default is False or default in ([], SUPPRESS):
            return sentence
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{sentence} Default: {shown.replace('%', '%%')}."


def add_path(
    parser: ArgumentParser, name: str, sentence: str, metavar: str = "FILE", **options: Any
) -> None:
    """Declare an option that names a file or folder; ``options`` as of ``add_argument``."""
    parser.add_argument(name, type=Path, metavar=metavar, help=sentence, **options)


def add_number(parser: ArgumentParser, name: str, default: int | None, sentence: str) -> None:
    """Declare an option that takes a whole number."""
    parser.add_argument(name, type=int, metavar="N", default=default, help=sentence)


def add_flag(parser: ArgumentParser, name: str, sentence: str) -> None:
    """Declare an option without a value."""
    parser.add_argument(name, action="store_true", help=sentence)


def add_inputs(
    parser: ArgumentParser, sentence: str = "Images, folders of them, patterns."
) -> None:
    """Declare the files that a command runs over."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=sentence)


def add_batch_size(
    parser: ArgumentParser, default: int, sentence: str = "Images in a batch."
) -> None:
    """Declare ``--batch-size``."""
    add_number(parser, "--batch-size", default, sentence)


def add_size(parser: ArgumentParser, sentence: str) -> None:
    """Declare ``--size`` as a height and a width; see ``chosen_size_hw``."""
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=sentence)


def chosen_size_hw(arguments: Namespace) -> tuple[int, int] | None:
    """Return ``--size``, None if it was not given."""
    return tuple(arguments.size) if arguments.size else None


def add_face_model(parser: ArgumentParser, required: bool = True) -> None:
    """Declare ``--model`` for commands that take third-party face networks, too."""
    parser.add_argument(
        "--model",
        required=required,
        help="Checkpoint of a face network, or a third-party network: facenet:vggface2, onnx:FILE,"
        " ncnn:FILE.param.",
    )


def add_trust(parser: ArgumentParser) -> None:
    """Declare ``--trust``, which every command that opens a checkpoint has."""
    parser.add_argument(
        "--trust",
        nargs="+",
        action="extend",
        default=[],
        metavar="PACKAGE",
        help="Your own packages whose classes a checkpoint may name; never use it for a stranger's "
        "file, which could then run any code in them.",
    )


def add_device(parser: ArgumentParser) -> None:
    """Declare ``--device``, which every command that runs a model has."""
    parser.add_argument(
        "--device",
        default="auto",
        help="Where the model runs: auto (an accelerator where there is one), cpu, cuda:1.",
    )
