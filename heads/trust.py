"""Say whose classes checkpoints may name besides those of this package.

It needs nothing else, so that commands that never open a checkpoint stay light.
"""

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
    """Return what is trusted here and now."""
    return _trusted.get()


def is_trusted(name: str) -> bool:
    """Whether an import path is trusted, or is inside what is."""
    return any(name == each or name.startswith(f"{each}.") for each in trusted())
