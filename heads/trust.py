"""Packages whose classes checkpoints may name besides those of this package. Light to import."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """Trust further packages, modules or classes while the block runs.

    Args:
        names: Import paths such as ``my_package``. Checkpoints may then name whatever is in them,
            and making objects of that runs its code.
    """
    token = _trusted.set((*_trusted.get(), *names))
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted() -> tuple[str, ...]:
    """Return the import paths that are trusted at the moment."""
    return _trusted.get()


def is_trusted(name: str) -> bool:
    """Return whether an import path is trusted, or is inside one that is."""
    return any(name == each or name.startswith(f"{each}.") for each in trusted())
