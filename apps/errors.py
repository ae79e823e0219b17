"""How a command line ends when something is wrong that its user can mend."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..datasets.errors import DataError

EXIT_FAULT = 1
"""The command ran and found faults."""
EXIT_USAGE = 2
"""The command could not run: a wrong option, or wrong data."""
EXIT_INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells have it."""


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Turn a DataError or Ctrl-C into a short message on stderr and an exit status.

    Every other exception is a fault of the program and keeps its traceback.

    Raises:
        SystemExit: 2 after a DataError, 130 after Ctrl-C.
    """
    try:
        yield
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from error
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
