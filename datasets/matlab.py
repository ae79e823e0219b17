"""MATLAB files, read by scipy without pickle."""

from pathlib import Path
from typing import Any

from .errors import DataError


def read_mat(path: Path, *names: str) -> tuple[Any, ...]:
    """Read variables of a MATLAB file (version 4 to 7.2), dimensions of size 1 taken away.

    Args:
        path: the file.
        names: of the variables.

    Returns:
        A numpy array, or what is in it, for each; records of a struct array as
        ``scipy.io.loadmat`` gives them.

    Raises:
        DataError: scipy is not installed, the file is absent or broken, or lacks a variable.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            f"{path}: MATLAB files need scipy: pip install 'mobilevision[matlab]'"
        ) from error
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        content = loadmat(path, squeeze_me=True, variable_names=names)
        return tuple(content[name] for name in names)
    except KeyError as error:
        raise DataError(f"{path}: has no variable {error}") from error
    except Exception as error:  # scipy raises many kinds for broken bytes
        raise DataError(f"{path}: not a MATLAB file that can be read ({error})") from error
