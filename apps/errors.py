"""How a command line ends when something is wrong that its user can mend."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..datasets.errors import DataError

EXIT_FAULT = 1
"""The command ran and found faults."""
EXIT_USAGE = 2
"""The command could not run: a wrong option, wrong data, or no room for the output."""
EXIT_INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells have it."""

_DISK_REMEDIES = {
    errno.EACCES: "change its permissions or name another place",
    errno.EPERM: "change its permissions or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "free some space or name another place",
    errno.EDQUOT: "free some space or name another place",
}


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Turn an error that the user can mend, or Ctrl-C, into one message and an exit status.

    Such errors are a DataError, a WeightsError and an OSError about permissions or a full disk,
    also where another exception wraps them: jsonargparse raises its own for whatever a constructor
    raises. Every other exception is a fault of the program and keeps its traceback.

    Raises:
        SystemExit: 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    try:
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


def _message(error: BaseException) -> str | None:
    """What to tell the user; None for a fault of the program."""
    if isinstance(error, DataError) or _is_weights_error(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK_REMEDIES:
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror}; {_DISK_REMEDIES[error.errno]}"
    wrapped = _wrapped(error)
    return None if wrapped is None else _message(wrapped)


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
