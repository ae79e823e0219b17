"""JSON lists too long for the memory. Free of torch."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...datasets.files import replaced_atomically


@contextmanager
def json_list(path: Path) -> Iterator[Callable[[Iterable[Any]], None]]:
    """Write a JSON list row by row; the file appears when the list is complete.

    Gives a function that adds rows, each on a line of its own.

    Args:
        path: The file.
    """
    with replaced_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "[\n"

        def add(rows: Iterable[Any]) -> None:
            nonlocal separator
            for row in rows:
                file.write(separator + json.dumps(row, separators=(",", ":"), ensure_ascii=False))
                separator = ",\n"

        yield add
        file.write("[]\n" if separator == "[\n" else "\n]\n")
