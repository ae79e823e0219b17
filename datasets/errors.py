"""Errors and warnings for the user: bad data, a missing file, an option that does not fit."""


class DataError(ValueError):
    """A fault in the user's files or options that the user can correct.

    The message names what is wrong, where (file, annotation id) and what to do. The command lines
    print it alone, without a traceback, and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's error again with the worker's traceback in the message,
        # which ends in this class's name and the message that matters.
        super().__init__(message.rpartition(f"{__name__}.DataError: ")[2].rstrip())


class SharedFilesWarning(UserWarning):
    """Warning that others could read files that are private to their owner."""
