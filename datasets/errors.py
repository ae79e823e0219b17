"""The error that a person can mend: bad data, a missing file, an option that does not fit."""


class DataError(ValueError):
    """Something in the user's files or options is wrong, and the user can put it right.

    The message names what is wrong, where (file, annotation id) and what to do. The command lines
    print it alone, without a traceback, and exit with status 2.
    """
