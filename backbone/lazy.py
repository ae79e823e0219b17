"""Packages that import their modules on first use, so that what needs no torch is quick."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, **modules: tuple[str, ...]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that imports its modules on first use (PEP 562).

    ``package`` is its ``__name__``; each module is given the names that it exports.
    """
    places = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(f".{places[name]}", package)
        except ModuleNotFoundError as error:
            missing = f"{package}.{name} needs {error.name}: pip install mobilevision"
            raise ModuleNotFoundError(missing, name=error.name) from error
        return getattr(module, name)

    return __getattr__
