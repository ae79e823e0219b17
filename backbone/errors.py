"""The error of weight files that a person can mend, and optional packages."""

from importlib import import_module
from typing import Any


class WeightsError(ValueError):
    """A weight file is absent or does not fit; the message names the file and what to do."""


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import an optional package; if it is absent, a WeightsError says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise WeightsError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'mobilevision[{extra}]'"
        ) from error
