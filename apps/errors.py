"""How a command line ends when something is wrong that its user can mend."""

import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..datasets.errors import DataError
from .private_files import SharedFilesWarning

EXIT_FAULT = 1
"""The command ran and found faults."""
EXIT_USAGE = 2
"""The command could not run: a wrong option, wrong data, or no room for the output."""
EXIT_INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells have it."""

_SQLITE_NUMBERS = {8: errno.EROFS, 13: errno.ENOSPC, 14: errno.EACCES}
"""SQLITE_READONLY, SQLITE_FULL and SQLITE_CANTOPEN, which has no better reason."""
_RUST_NUMBER = re.compile(r"\(os error (\d+)\)")
_FULL_DISK = re.compile("No space left on device|Disk quota exceeded", re.IGNORECASE)
"""In texts of libraries that raise kinds of their own, such as Lance and Arrow."""
_UNWRITTEN = re.compile(
    r"basic_ios::clear|PytorchStreamWriter failed writing file|unexpected pos \d+ vs \d+"
)
"""OpenVINO and torch say that a file was not written, and not why."""
_ROOM = "free some space or name another place"
_DISK_REMEDIES = {
    errno.EACCES: "change its permissions or name another place",
    errno.EPERM: "change its permissions or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
}


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Turn an error that the user can mend, or Ctrl-C, into one message and an exit status.

    Such errors are a DataError, a WeightsError and an OSError about permissions or a full disk,
    also as SQLite, Lance and other libraries report it, and where another exception wraps them:
    jsonargparse raises its own for whatever a constructor raises. Every other exception is a fault
    of the program and keeps its traceback.

    Raises:
        SystemExit: 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    try:
        with _plain_warnings():
            yield
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from error
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning about the user's own files without the line of code that gives it."""
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
    """What to tell the user; None for a fault of the program."""
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
    wrapped = _wrapped(error)
    return None if wrapped is None else _message(wrapped)


def _disk_error(error: BaseException) -> int | None:
    """The operating system's number of an error, as far as the exception tells it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return _SQLITE_NUMBERS.get(code & 0xFF)  # the rest says in which way
    if found := _RUST_NUMBER.search(str(error)):
        return int(found[1])
    return errno.ENOSPC if _FULL_DISK.search(str(error)) else None


def _is_weights_error(error: BaseException) -> bool:
    # Importing the backbone takes seconds, and before it is imported it raises nothing.
    backbone = sys.modules.get(f"{__name__.partition('.')[0]}.backbone.errors")
    return backbone is not None and isinstance(error, backbone.WeightsError)


def _wrapped(error: BaseException) -> BaseException | None:
    """The exception that ``error`` passes on.

    A fault that merely happened while another exception was handled passes nothing on, and must
    not hide behind it: without ``from``, the message has to be repeated.
    """
    context = error.__context__
    if error.__cause__ is None and context is not None and str(context) in str(error):
        return context
    return error.__cause__
