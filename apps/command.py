"""The commands of ``mobilevision``: their type, their help, shared options, and how they fail."""

import errno
import os
import re
import sys
import warnings
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from ..datasets.errors import DataError, SharedFilesWarning

EXIT_FAULT = 1
"""The command ran and found faults."""
EXIT_USAGE = 2
"""The command could not run: a wrong option, wrong data, or no space for the output."""
EXIT_INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as in shells."""

_SQLITE_NUMBERS = {8: errno.EROFS, 13: errno.ENOSPC, 14: errno.EACCES}
"""SQLITE_READONLY, SQLITE_FULL and SQLITE_CANTOPEN, which gives no better reason."""
_RUST_NUMBER = re.compile(r"\(os error (\d+)\)")
_FULL_DISK = re.compile("No space left on device|Disk quota exceeded", re.IGNORECASE)
"""In messages of libraries with their own exceptions, such as Lance and Arrow."""
_UNWRITTEN = re.compile(
    r"basic_ios::clear|PytorchStreamWriter failed writing file|unexpected pos \d+ vs \d+"
)
"""Messages of OpenVINO and torch about unwritten files, which give no reason."""
_ROOM = "free some space or name another place"
_NO_FOLDER = "a file is where a folder should be; name another place"
_DISK_REMEDIES = {
    errno.EACCES: "change its permissions or name another place",
    errno.EPERM: "change its permissions or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
}


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Turn an error that the user can fix, or Ctrl-C, into a message and an exit status.

    Such errors are DataError, WeightsError, OSError about permissions, a full disk or a file in the
    place of a folder, and a package that an install for inference alone leaves out, as well as
    their equivalents of SQLite, Lance and other libraries, and exceptions that wrap them, as
    jsonargparse wraps errors of constructors. Other exceptions are bugs and keep their traceback.

    Raises:
        SystemExit: 2 after an error that the user can fix, 130 after Ctrl-C.
    """
    try:
        with _plain_warnings():
            yield
    except BrokenPipeError:
        if not _reader_left():
            raise
        raise SystemExit(EXIT_FAULT) from None
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from error
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


def _reader_left() -> bool:
    """Return whether stdout goes to a reader that has enough, such as head; then drop the rest.

    Other pipes break, too, such as those of workers, and that has to be seen.
    """
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings about the user's own files without the line of code."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, SharedFilesWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *rest)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _message(error: BaseException) -> str | None:
    """Return the message for the user, None for a bug."""
    if isinstance(error, DataError) or _is_weights_error(error):
        return str(error)
    if _UNWRITTEN.search(str(error)):
        reason = str(error).splitlines()[0]
        return f"the disk did not take what was to be written ({reason}); {_ROOM}"
    number = _disk_error(error)
    if number in _DISK_REMEDIES:
        name = getattr(error, "filename", None)
        place = "" if name is None else f"{name}: "
        text = getattr(error, "strerror", None) or os.strerror(number)
        return f"{place}{text}; {_DISK_REMEDIES[number]}"
    if isinstance(error, ModuleNotFoundError) and _is_dependency(error.name or ""):
        return f"this needs {error.name}, which is not installed: pip install mobilevision"
    wrapped = _wrapped(error)
    return None if wrapped is None else _message(wrapped)


def _disk_error(error: BaseException) -> int | None:
    """Return the operating system's error number, if the exception has one."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return _SQLITE_NUMBERS.get(code & 0xFF)  # the other bits are details
    if found := _RUST_NUMBER.search(str(error)):
        return int(found[1])
    return errno.ENOSPC if _FULL_DISK.search(str(error)) else None


def _is_dependency(module: str) -> bool:
    """Return whether a module is of a package that `pip install mobilevision` brings."""
    from importlib.metadata import requires

    package = module.partition(".")[0].replace("_", "-")
    plain = (line for line in requires("mobilevision") or () if "extra ==" not in line)
    return package in {re.split(r"[^\w.-]", line)[0] for line in plain}


def _is_weights_error(error: BaseException) -> bool:
    # Importing the backbone takes seconds, and it raises nothing before it is imported.
    backbone = sys.modules.get(f"{__name__.partition('.')[0]}.backbone.errors")
    return backbone is not None and isinstance(error, backbone.WeightsError)


def _wrapped(error: BaseException) -> BaseException | None:
    """Return the exception that ``error`` wraps.

    An error that merely occurred while another exception was handled wraps nothing; so without
    ``from``, it has to repeat the other's message.
    """
    context = error.__context__
    if error.__cause__ is None and context is not None and str(context) in str(error):
        return context
    return error.__cause__


class Command:
    """A command; torch, cv2 and our own heavy modules are imported when it runs, not before.

    Args:
        functions: One declares the arguments, each with one sentence of help; the other runs the
            command, with results to stdout and progress to stderr, and returns the exit status.
        summary: One sentence for lists of commands.
        examples: Complete command lines.
    """

    def __init__(
        self,
        functions: tuple[Callable[[ArgumentParser], None], Callable[[Namespace], int]],
        summary: str,
        *examples: str,
    ) -> None:
        self.add_arguments, self.run = functions
        self.summary, self.examples = summary, examples


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


def add_names(parser: ArgumentParser, name: str, metavar: str, sentence: str) -> None:
    """Declare an option that takes one or more values and may be repeated."""
    options = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument(name, **options, metavar=metavar, help=sentence)


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


def add_size(
    parser: ArgumentParser, sentence: str, name: str = "--size", default: list[int] | None = None
) -> None:
    """Declare a height and a width; see ``chosen_size_hw``."""
    pair = ("HEIGHT", "WIDTH")
    parser.add_argument(name, type=int, nargs=2, metavar=pair, default=default, help=sentence)


def chosen_size_hw(arguments: Namespace) -> tuple[int, int] | None:
    """Return ``--size``, None if it was not given; a DataError if a side is not above 0."""
    if arguments.size and min(arguments.size) < 1:
        raise DataError(f"--size {' '.join(map(str, arguments.size))}: both sides must be above 0.")
    return tuple(arguments.size) if arguments.size else None


def add_face_model(parser: ArgumentParser, required: bool = True) -> None:
    """Declare ``--model`` for commands that take third-party face networks, too."""
    own = "Checkpoint of a face network, an exported file, a name of 'mobilevision weights list'"
    sentence = f"{own}, or a file of another project: onnx:FILE, ncnn:FILE.param, facenet:FILE."
    parser.add_argument("--model", required=required, help=sentence)
    add_accept_license(parser)


def add_accept_license(parser: ArgumentParser) -> None:
    """Declare ``--accept-license``, for commands that may download weights which need it."""
    sentence = (
        "Accept this license of public weights, which the refusal names, so that they are "
        "downloaded; once, the file is kept."
    )
    parser.add_argument("--accept-license", metavar="NAME", help=sentence)


def add_detector(
    parser: ArgumentParser,
    choices: Sequence[str] = ("all", "largest", "center"),
    sentence: str = "Take all faces of an image, the largest, or the one nearest to the center.",
) -> None:
    """Declare ``--detector`` and ``--faces``: what finds faces, and which of them are taken."""
    parser.add_argument("--faces", choices=choices, default=choices[0], help=sentence)
    sentence = (
        "What finds the faces: a checkpoint or exported file of a face detector, or mtcnn; by "
        "default retinaface_mobilenet_0.25, whose public weights are downloaded once."
    )
    parser.add_argument("--detector", help=sentence)


def add_layout(parser: ArgumentParser, sentence: str) -> None:
    """Declare ``--layout``, the form of a dataset of faces."""
    layouts = ("folder", "celeba")
    parser.add_argument("--layout", choices=layouts, default=layouts[0], help=sentence)


def add_trust(parser: ArgumentParser) -> None:
    """Declare ``--trust``, which every command that opens a checkpoint has."""
    sentence = (
        "Your own packages whose classes a checkpoint may name; never use it for a stranger's file,"
        " which could then run any code in them."
    )
    add_names(parser, "--trust", "PACKAGE", sentence)


def add_device(parser: ArgumentParser) -> None:
    """Declare ``--device``, which every command that runs a model has."""
    sentence = "Where the model runs: auto (an accelerator where there is one), cpu, cuda:1."
    parser.add_argument("--device", default="auto", help=sentence)
