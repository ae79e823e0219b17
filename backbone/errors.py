"""The error of weight files that a person can mend, and optional packages."""

from importlib import import_module
from typing import Any


class WeightsError(ValueError):
    """A weight file is absent or does not fit; the message names the file and what to do."""


def import_extra(module: str, package: str, purpose: str) -> Any:
    """Import a package that may be absent; a WeightsError then says what pip installs it by."""
    try:
        return import_module(module)
    except ImportError as error:
        needed = module.partition(".")[0]
        raise WeightsError(f"{purpose} needs {needed}: pip install {package}") from error
